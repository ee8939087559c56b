"""The command line's `evaluate` for a run on generated tasks: how good it is, beside everything it is held against."""

import argparse
from dataclasses import asdict
from typing import Any

from maml_core.evaluation.curves import Evaluation, Level, shots_tasks
from maml_core.evaluation.of_runs import measure, reproduction
from maml_core.evaluation.published import comparable, comparison, published_returns
from maml_core.evaluation.rivals import RIVAL_NAMES
from maml_core.learning.problems import Regression
from maml_core.store.run import Run
from maml_core.store.store import Store
from maml_core.words import counted_steps, finite


def baselines(text: str) -> tuple[str, ...]:
    """The names in an option's value: `gp,oracle`, or `none`."""
    names = tuple(part.strip() for part in text.split(",") if part.strip() and part.strip() != "none")
    for name in names:
        if name not in RIVAL_NAMES:
            raise argparse.ArgumentTypeError(
                f"{name!r} is no baseline: it must be of {', '.join(RIVAL_NAMES)}, or none"
            )
    return tuple(name for name in RIVAL_NAMES if name in names)


def evaluate_run(store: Store, run: Run, iteration: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measure a run, say what was found, and return it for `--json`.

    Raises:
        StoreError: the run has no such checkpoint.
    """
    result = measure(
        store,
        run,
        tasks=options.tasks,
        steps=options.steps,
        seed=options.seed,
        at=options.checkpoint,
        rivals=options.baselines,
    )
    said = reproduction(store, run)
    published, returns = comparable(run.config), published_returns(run.config)
    if not options.json:
        _say(run, iteration, result)
        if published:
            print(f"\n{comparison(run.config, result)}")
        for curve in returns:
            print(f"{curve.method}: {', '.join(f'{value:g}' for value in curve.returns)} after 0, 1, … steps")
        if said:
            print(f"\n{said}")
    key = "mse" if isinstance(result.judge, Regression) else "error"

    def level_of(level: Level) -> dict[str, float | None]:
        error, ci95 = finite(level)
        return {key: error, "ci95": ci95}

    return {
        "run": run.id,
        "iteration": iteration,
        "tasks": result.tasks,
        "seed": result.seed,
        "steps": list(range(options.steps + 1)),
        key: finite(result.learned.error),
        "ci95": finite(result.learned.ci95),
        "baselines": {
            "random": {key: finite(result.random.error), "ci95": finite(result.random.ci95)},
            "predict_mean": result.predict_mean,
            **{name: level_of(level) for name, level in result.rivals.items()},
        },
        "by_shots": {
            name: {str(shots): level_of(level) for shots, level in levels.items()}
            for name, levels in result.by_shots.items()
        },
        "coverage": result.coverage,
        "outside": level_of(result.outside) if result.outside else None,
        "published": [asdict(row) for row in published] + [asdict(row) for row in returns],
        "reproduction": said,
    }


def _say(run: Run, iteration: int, result: Evaluation) -> None:
    judge, score = result.judge, result.judge.score
    print(f"{run.id} ({run.name}) after {iteration:,} iterations: {judge.score_name} on {result.tasks} held-out")
    print(f"tasks ({run.config.tasks.judged_by}), mean ± 95 %")
    print(f"{'steps':>5}  {'learned':>17}  {'random':>17}")
    for step, (learned, ci, random) in enumerate(
        zip(result.learned.error, result.learned.ci95, result.random.error, strict=True)
    ):
        print(f"{step:>5}  {score(learned):>9.4g} ± {ci:<5.2g}  {score(random):>17.4g}")
    print("\nthe same tasks by other methods, none of which takes a gradient step")
    print(f"{judge.guess_in_full:<32}  {score(result.predict_mean):>9.4g}")
    for name, level in result.rivals.items():
        print(f"{RIVAL_NAMES[name]:<32}  {score(level.error):>9.4g} ± {level.ci95:<5.2g}")
    steps = counted_steps(run.config.inner_steps)
    levels = result.by_shots["learned"]
    has_decades = judge.scale == "decades"
    short = "error" if has_decades else judge.score_name
    print(
        f"\n{short} after {steps} against {judge.supports} ({shots_tasks(run.config.tasks, result.tasks)} tasks each)"
    )
    print(f"{judge.supports.split()[1]:<10}" + "".join(f"{shots:>9}" for shots in levels))
    print(f"{'learned':<10}" + "".join(f"{score(level.error):>9.3g}" for level in levels.values()))
    if result.coverage is not None:
        print(f"\nthe 95 % band holds {result.coverage:.1%} of the points")
    strain = result.strain(run.config.inner_steps)
    if result.outside and not has_decades:
        level = result.outside
        print(f"\non tasks from twice the training ranges {score(level.error):.4g} ± {level.ci95:.2g}")
    elif strain is not None and result.outside:
        print(
            f"\non tasks from twice the training ranges {result.outside.error:.4g} ± {result.outside.ci95:.2g}: "
            f"{strain:.3g} times the error inside"
        )
