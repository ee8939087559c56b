"""The lab: choose a configuration, train it in the background, watch it learn to adapt."""

import streamlit as st

from maml_core.config import RunConfig
from maml_core.errors import MamlError, RunNotFoundError
from maml_core.glossary import ANCHOR
from maml_core.presets import DEFAULT
from maml_core.store.run import Run
from maml_core.training.session import TrainingSession
from pages.components.config_form import config_form, load_config
from pages.components.frame import following, hidden, page
from pages.components.glossary_view import glossary_link
from pages.components.insight import SECONDS, finding, parameter_space
from pages.components.lesson_view import current_lesson, lesson_menu, show_lesson
from pages.components.pictures import SMALL_TASKS, pictures
from pages.components.run_view import (
    act,
    reproduction_note,
    status_line,
)
from pages.components.share import share
from pages.components.task_source import task_seed

LIVE_SECONDS = 0.2
QUEUED_SECONDS = 1.0
WATCH_SECONDS = 2.0


def current_run(session: TrainingSession) -> Run | None:
    """The run that the URL names, if it exists."""
    run_id = st.query_params.get("run")
    if not run_id:
        return None
    try:
        return session.store.run(run_id)
    except RunNotFoundError as error:
        del st.query_params["run"]
        st.warning(str(error), icon=":material/link_off:")
        return None


def start(session: TrainingSession, config: RunConfig, run: Run | None, steps: int | None = None) -> None:
    """Start a new run from the form and show it; the run shown so far is stopped, and its curve stays."""

    def create() -> None:
        new = session.start(config, preset=st.session_state["form.preset"], steps=steps)
        if run:
            if run.is_active and session.store.may_change(run.started_by):
                session.store.ask(run.id, "stop")
            st.query_params["against"] = run.id
        st.query_params["run"] = new
        st.session_state["shown_run"] = new  # the form says already what this run is

    act(create)


def next_tasks() -> None:
    """Have other tasks shown: those after the ones in sight."""
    st.query_params["task"] = str(task_seed() + 1 + SMALL_TASKS)


def reset(run: Run) -> None:
    """Leave the run where it is and show its initialization again, ready to be trained from there."""
    load_config(run.config, run.preset)
    for name in ("run", "against"):
        st.query_params.pop(name, None)


def controls(session: TrainingSession, config: RunConfig | None, run: Run | None) -> None:
    """Train, Pause or Resume, Step, Stop, Reset, New task."""
    active = run is not None and run.is_active
    is_theirs = run is not None and not session.store.may_change(run.started_by)
    is_changed = run is not None and config is not None and config != run.config
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if (
            st.button(
                "Train with this" if is_changed else "Train",
                type="primary",
                icon=":material/play_arrow:",
                disabled=config is None or (active and not is_changed),
                help=f"Starts a new run. The one shown {'goes on' if is_theirs else 'is stopped'}, and its curve stays "
                "for comparison."
                if is_changed
                else None,
            )
            and config
        ):
            start(session, config, run)
            st.rerun()
        if run and run.is_resumable:
            if st.button("Resume", icon=":material/resume:", disabled=is_theirs):
                act(lambda: session.resume(run.id))
                st.rerun()
        elif st.button("Pause", icon=":material/pause:", disabled=not active or is_theirs) and run:
            act(lambda: session.store.ask(run.id, "pause"))
            st.rerun()
        can_step = (run.is_resumable if run else config is not None) and not active and not is_theirs
        if st.button("Step", icon=":material/skip_next:", disabled=not can_step, help="One meta-iteration."):
            if run:
                act(lambda: session.resume(run.id, steps=1))
            elif config:
                start(session, config, None, steps=1)
            st.rerun()
        can_stop = run is not None and (active or run.status == "paused") and not is_theirs
        if st.button("Stop", icon=":material/stop:", disabled=not can_stop) and run:
            act(lambda: session.store.ask(run.id, "stop"))
            st.rerun()
        if st.button(
            "Reset",
            icon=":material/restart_alt:",
            disabled=run is None or active,
            on_click=reset,
            args=(run,),
            help="Back to this run's initialization, untrained. The run itself is kept on the Runs page.",
        ):
            st.rerun()
        st.button("New task", icon=":material/casino:", help="Draw other tasks to adapt to.", on_click=next_tasks)
        shown = run.config if run else config
        if shown:
            share(session, shown, run)
        with st.popover("View", icon=":material/tune:"):
            st.slider("Smoothing", 0.0, 0.99, step=0.01, key="smoothing", persist_state="session")
            st.toggle("Logarithmic loss axis", key="log_axis", persist_state="session")
            shown_pace = run.pace if run and run.pace in (1, 2, 5, 10, 20, 50, 100) else None
            pace = st.select_slider(
                "Pace",
                [1, 2, 5, 10, 20, 50, 100, None],
                value=shown_pace,
                format_func=lambda value: "full speed" if value is None else f"{value} a second",
                help="Slow training down to watch it.",
                disabled=run is None or is_theirs,
            )
            if run and pace != shown_pace:
                act(lambda: session.store.set_pace(run.id, pace))


def looks_every(run: Run | None) -> float | None:
    """Seconds between two looks at a run; one that can go on may be resumed in another tab or at a terminal."""
    if run is None:
        return None
    if run.is_active:
        return QUEUED_SECONDS if run.status == "queued" else LIVE_SECONDS
    return WATCH_SECONDS if run.is_resumable else None


def buttons(run: Run) -> tuple[bool, bool, bool, bool]:
    """What decides which controls a run has, and how often it is looked at."""
    return run.is_active, run.is_resumable, run.status == "paused", run.status == "queued"


def story() -> None:
    """What this is, in a line, with its terms to be looked up."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(
            f"##### Find a [starting point]({ANCHOR}initialization) from which a few [steps]({ANCHOR}inner_steps) "
            "are enough",
            width="content",
        )
        lesson_menu()
        glossary_link()


def insights(session: TrainingSession, run: Run) -> None:
    """What is found in the background, looked at again while there may be more."""

    def train(config: RunConfig) -> None:
        load_config(config)
        start(session, config, run)

    key = f"pending {run.id}"
    pending = st.session_state.setdefault(key, True)

    @st.fragment(run_every=SECONDS if run.is_active or pending else None)
    def part() -> None:
        try:
            now = session.store.run(run.id)
            more = finding(session, now, train)
            more = parameter_space(session, now) or more or now.is_active
        except MamlError as error:
            st.caption(str(error))
            more = False
        if more != st.session_state[key]:
            st.session_state[key] = more
            st.rerun()

    part()


@page("app.py")
def main(session: TrainingSession) -> None:
    """Lay the page out."""
    run = current_run(session)
    st.session_state.setdefault("smoothing", 0.9)
    st.session_state.setdefault("log_axis", True)
    if run and st.session_state.get("shown_run") != run.id:  # opened by a link: the form shows what was trained
        load_config(run.config, run.preset or DEFAULT)
        st.session_state["shown_run"] = run.id
    lesson = current_lesson()
    config = config_form(hidden=lesson is not None or "form" in hidden())
    is_answered = True
    if lesson:
        is_answered = show_lesson(lesson, run)
    else:
        story()
    if "controls" not in hidden():
        controls(session, config if is_answered else None, run)
    live = run is not None and run.is_active

    @st.fragment(run_every=looks_every(run))
    @following
    def live_part() -> None:
        try:
            now = session.store.run(run.id) if run else None
        except RunNotFoundError:  # deleted in another tab: the page says so
            st.rerun()
        if now and run and buttons(now) != buttons(run):
            st.rerun()  # the controls are outside this fragment
        if now:
            status_line(session, now)
        shown = now.config if now else config
        if shown is None:
            st.info("Correct the value named in the sidebar to continue.", icon=":material/edit:")
            return
        try:
            pictures(session, shown, now)
            if now:
                reproduction_note(session, now)
        except MamlError as error:
            st.error(str(error), icon=":material/error:")

    live_part()
    if run:
        insights(session, run)
    if live:
        session.ensure_workers()


main()
