"""One initialization on a task, step by step, beside the initializations it is compared with."""

import streamlit as st

from maml_core.config import RunConfig
from maml_core.evaluation.of_runs import learned_by, shown_steps
from maml_core.evaluation.side_by_side import endings, fit_all, starts
from maml_core.figures import (
    can_quiz,
    landscape_figure,
    points_figure,
    quiz_of,
    replay_figure,
    task_grid,
)
from maml_core.learning.adaptation import fit_tasks, landscape, predict_rows
from maml_core.learning.control import aimed, can_aim
from maml_core.learning.fresh_rows import NewRows, RowTasks
from maml_core.learning.fresh_tasks import Tasks, draw_task, draw_tasks, movable
from maml_core.learning.generated import GeneratedFamily
from maml_core.learning.initialization import Initialization
from maml_core.learning.own_drawings import classes_to_draw, named
from maml_core.learning.own_points import classes_of
from maml_core.learning.table_tasks import TableFamily
from maml_core.store.run import Run
from maml_core.training.session import TrainingSession, computing
from maml_core.words import counted_steps
from pages.components.drawing_board import drawing_board
from pages.components.field_input import number_in_url
from pages.components.frame import page
from pages.components.glossary_view import note
from pages.components.live_chart import Pick, live_chart
from pages.components.measured_view import pretraining_button, quality, worth
from pages.components.quiz_view import quiz_view
from pages.components.row_source import pick_rows, toggle_row
from pages.components.run_view import pick_checkpoint, pick_run, status_line
from pages.components.share import share_task
from pages.components.task_source import drawn, load_drawings, load_points, load_task, pick_task, task_seed

LEAST_STEPS = 10  # of adaptation, where nothing else is asked for: enough to see where it leads
WALL, WALL_COLUMNS = 12, 6
VIEWS = ("Replay", "How good, really", "Where it breaks", "A wall of fresh tasks")
QUIZ = "You against the network"
TABLE_VIEWS = ("Replay", "Is it worth it?", "A wall of fresh tasks")


def settings(run: Run) -> tuple[int, int, float]:
    """Shots, steps and inner learning rate, kept in the URL.

    Raises:
        ConfigError: what was typed breaks a field's rule.
    """
    config, fields = run.config, RunConfig.model_fields
    supports = config.tasks.problem.supports
    shots = number_in_url("shots", fields["shots"], config.shots, help_text=f"{supports.capitalize()}.")
    steps = number_in_url(
        "steps",
        fields["inner_steps"],
        shown_steps(config, LEAST_STEPS),
        help_text="Gradient steps of adaptation.",
    )
    inner_lr = number_in_url(
        "inner_lr",
        fields["inner_lr"],
        config.inner_lr,
        help_text="Step size of adaptation. Learned rates, where a run has them, are scaled with it.",
    )
    config.check_shots(shots)
    if config.method.solves:
        note("The head is solved for: one step is all, whatever the rate.")
    elif steps > config.inner_steps or inner_lr > config.inner_lr:
        count = counted_steps(config.inner_steps)
        note(f"Trained for {count} at {config.inner_lr:g}: anything beyond that is extrapolation.")
    return shots, steps, inner_lr


def replay(
    session: TrainingSession,
    run: Run,
    learned: Initialization,
    tasks: Tasks | RowTasks,
    points: list[list[float]] | None,
    steps: int,
    inner_lr: float,
) -> None:
    """The task, adapted from every initialization, to be played step by step."""
    classes = 0 if isinstance(tasks, RowTasks) else classes_of(tasks.family)
    aims = isinstance(tasks, Tasks) and can_aim(tasks.family)
    with computing():
        fits = fit_all(starts(session.store, run, learned), tasks, steps, inner_lr)
    shown = endings(fits)
    for column, ending in zip(st.columns(len(shown)), shown, strict=True):
        column.metric(ending.title, ending.error)
    blew_up_at = fits["learned"].blew_up_at
    if blew_up_at is not None:
        st.warning(
            f"Adaptation diverges at step {blew_up_at}: the steps before it are shown. "
            "Try a smaller inner learning rate.",
            icon=":material/warning:",
        )

    def picked(pick: Pick) -> None:
        if isinstance(tasks, RowTasks):
            toggle_row(tasks, pick["task"])
        else:
            load_task(task_seed(), aimed(tasks.family, pick["x"], pick["y"]))

    live_chart(
        replay_figure(fits),
        key="replay",
        revision=f"{run.id}:{task_seed()}:{steps}",
        height=430,
        alt="A task, and what each model makes of it at the adaptation step chosen below",
        on_points=(lambda placed: load_points(placed, classes)) if points is not None else None,
        points=points or (),
        on_pick=picked if aims or isinstance(tasks, RowTasks) else None,
        drags=aims,
    )
    if aims:
        note("Drag the star, or press anywhere in the first square, to put the goal there.")
    with st.container(horizontal=True, gap="small"):
        with st.popover("Share", icon=":material/share:"):
            share_task(lambda: fits, run.name)
        pretraining_button(session, run)


@st.fragment
def drawing(start: Initialization, family: GeneratedFamily, steps: int, *, shown: str | None) -> None:
    """Canvases, and what the network takes the last drawing for: answered first, before the page is drawn with it."""
    text = drawn() or ""
    with computing():
        shares = named(start, family, text, steps)
    drawing_board(text, classes_to_draw(family), shares, load_drawings)
    if text != shown:
        st.rerun()


def breaking(
    run: Run,
    family: GeneratedFamily,
    learned: Initialization,
    given: dict[str, float],
    shots: int,
    steps: int,
    inner_lr: float,
) -> None:
    """Error after adaptation over two parameters, reaching beyond the training ranges."""
    names = movable(family)
    if len(names) < 2:
        st.info("This family varies in one parameter only: there is no map of two to draw.", icon=":material/info:")
        return
    columns = st.columns(2)
    across = columns[0].selectbox("Across", names, key="across")
    up = columns[1].selectbox("Up", [name for name in names if name != across], key="up")
    found = landscape(
        learned.at_rate(inner_lr),
        family,
        (across, up),
        seed=task_seed(),
        given=given,
        shots=shots,
        steps=steps,
        turn=computing,
    )

    def open_cell(pick: Pick) -> None:
        load_task(task_seed(), given | {across: float(pick["x"]), up: float(pick["y"])})
        st.session_state["view"] = VIEWS[0]

    live_chart(
        landscape_figure(found),
        key="landscape",
        revision=f"{run.id}:{across}:{up}",
        height=520,
        on_pick=open_cell,
        alt=f"{found.problem.score_name.capitalize()} after {steps} steps over {across} and {up}; the training range "
        "is outlined",
    )
    strain = f" Outside the training range it is {found.strain:.3g} times as high." if found.strain else ""
    note(
        f"{found.problem.score_name.capitalize()} after adaptation, for this task with two parameters moved."
        f"{strain} Click a cell to open its task."
    )


def predictions(start: Initialization, found: NewRows, steps: int, inner_lr: float) -> None:
    """New rows with what is predicted for those without an output, to be looked at and downloaded."""
    with computing():
        frame = predict_rows(start.at_rate(inner_lr), found, steps)
    st.dataframe(frame, height=260, placeholder="–")
    st.download_button(
        "Download the predictions", frame.to_csv(index=False), "predictions.csv", icon=":material/download:"
    )


def wall(run: Run, learned: Initialization, shots: int, steps: int, inner_lr: float) -> None:
    """Fresh tasks before and after, best and worst marked."""
    seed = task_seed()
    with computing():
        tasks = draw_tasks(run.config.tasks, seed + 1, WALL, shots)
        fits = fit_tasks(learned.at_rate(inner_lr), tasks, steps)
    figure = task_grid(fits, columns=WALL_COLUMNS, mark_ends=True)

    def open_task(pick: Pick) -> None:
        if pick["task"] is not None:
            load_task(pick["task"])
        st.session_state["view"] = VIEWS[0]

    live_chart(
        figure,
        key="wall",
        revision=f"{run.id}:{seed}",
        height=440,
        on_pick=open_task,
        alt="Twelve fresh tasks before and after adaptation",
    )
    note(f"{learned.problem.score_name.capitalize()} before adaptation → **after**. Click a picture to open its task.")


def contest(
    run: Run, family: GeneratedFamily, start: Initialization, given: dict[str, float], shots: int, steps: int
) -> None:
    """The reader names images first: of the drawn task."""
    with computing():
        quiz = quiz_of(fit_tasks(start, draw_task(family, task_seed(), shots, given), steps)[0])
    if quiz is not None:
        quiz_view(quiz, f"{run.id}:{task_seed()}:{sorted(given.items())}:{shots}:{steps}:{start.inner_lr}")


def views(session: TrainingSession, run: Run) -> None:
    """The chosen view of the run's initialization."""
    if isinstance(run.config.tasks, GeneratedFamily):
        generated_views(session, run, run.config.tasks)
    elif isinstance(run.config.tasks, TableFamily):
        table_views(session, run, run.config.tasks)


def pick_view(names: tuple[str, ...]) -> str:
    """Which view is shown, kept in the URL."""
    asked = st.query_params.get("view", names[0])
    if st.session_state.get("view") not in names:
        st.session_state["view"] = asked if asked in names else names[0]
    view = st.segmented_control("View", names, key="view", label_visibility="collapsed") or names[0]
    st.query_params["view"] = view
    return view


def table_views(session: TrainingSession, run: Run, family: TableFamily) -> None:
    """The views of a run on a table."""
    with st.sidebar:
        shots, steps, inner_lr = settings(run)
        tasks, found = pick_rows(family, shots)
    view = pick_view(TABLE_VIEWS)
    iteration = pick_checkpoint(session, run)
    learned = learned_by(session.store, run, iteration)
    if learned is None:
        st.info("This run has no checkpoint yet: train it for a moment first.", icon=":material/info:")
    elif view == TABLE_VIEWS[1]:
        worth(session, run, iteration, steps)
    elif view == TABLE_VIEWS[2]:
        wall(run, learned, shots, steps, inner_lr)
    elif tasks is None:
        st.info("Paste rows in the sidebar, or upload a file, to adapt to them.", icon=":material/edit:")
    else:
        replay(session, run, learned, tasks, None, steps, inner_lr)
        if found is not None:
            predictions(learned, found, steps, inner_lr)


def generated_views(session: TrainingSession, run: Run, family: GeneratedFamily) -> None:
    """The views of a run on generated tasks."""
    with st.sidebar:
        shots, steps, inner_lr = settings(run)
        tasks, points, given = pick_task(family, shots)
    view = pick_view((*VIEWS, QUIZ) if can_quiz(family) else VIEWS)
    iteration = pick_checkpoint(session, run)
    learned = learned_by(session.store, run, iteration)
    if learned is None:
        st.info("This run has no checkpoint yet: train it for a moment first.", icon=":material/info:")
        return
    trained = family.points_of(run.config.shots)
    if tasks and points is not None and len(points) < trained:
        st.caption(f"{len(points)} points, where training used {trained} per task.")
    if view == VIEWS[0] and drawn() is not None and classes_to_draw(family):
        drawing(learned.at_rate(inner_lr), family, steps, shown=drawn())
        if tasks is None:
            return
    if view == VIEWS[0] and tasks is None:
        st.info("Place at least two points: click in the picture, or type them in the sidebar.", icon=":material/edit:")
        live_chart(
            points_figure(points or (), family),
            key="replay",
            revision="empty",
            height=470,
            alt="An empty picture to place points in",
            on_points=lambda placed: load_points(placed, classes_of(family)),
            points=points or (),
        )
    elif view == VIEWS[0] and tasks:
        replay(session, run, learned, tasks, points, steps, inner_lr)
    elif view == VIEWS[1]:
        quality(session, run, iteration, steps)
    elif view == QUIZ:
        contest(run, family, learned.at_rate(inner_lr), given, shots, steps)
    elif view == VIEWS[2]:
        breaking(run, family, learned, given, shots, steps, inner_lr)
    else:
        wall(run, learned, shots, steps, inner_lr)


@page("pages/1_Adapt.py")
def main(session: TrainingSession) -> None:
    """Lay the page out."""
    with st.sidebar:
        run = pick_run(session)
    if run is None:
        st.info("No runs yet. Train one in the lab first: there is no initialization to adapt.", icon=":material/info:")
        st.page_link("app.py", label="Train one in the lab", icon=":material/science:")
        return
    status_line(session, run)
    if not run.iteration:
        st.info("This run has not trained yet: this is its untrained initialization.", icon=":material/info:")
    views(session, run)


main()
