"""Runs side by side: grouped by all but the seed, with mean and spread, and only the settings that differ."""

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from maml_core.config import RunConfig
from maml_core.errors import StoreError
from maml_core.evaluation.remembered import Remembered
from maml_core.store.archive import Losses
from maml_core.store.run import Run
from maml_core.store.store import Store
from maml_core.words import loss, said

FIGURES = {
    "best": "Best on held-out tasks",
    "last": "Last, on training tasks",
    "lowest": "Lowest, on training tasks",
}
"""What runs can be compared by: losses after adaptation."""
SPREADS = {"std": "standard deviation", "se": "standard error", "range": "smallest to largest"}
"""What is drawn around a mean."""
LAST_ROWS = 20
"""Metric rows whose mean is a run's loss at its end: one alone is that of a few meta-batches."""
MOST_RUNS = 500
PARTS = "tasks.", "model."
"""What the names of settings begin with that only some families or models have."""
_FAMILY = "tasks.family"
LEAST_FOR_IMPORTANCE = 20
"""Runs below which what decides is anyone's guess."""


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing that counts."""

    name: str
    settings: dict[str, Any]  # those in which the groups differ, by dotted name
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Curve:
    """What a group's runs come to along an axis: their loss over meta-iterations, say; `[points]` each."""

    name: str
    grid: np.ndarray  # the axis
    middle: np.ndarray  # the mean
    bottom: np.ndarray  # of the spread
    top: np.ndarray
    members: np.ndarray  # how many runs have come as far
    singles: list[tuple[str, np.ndarray, np.ndarray]]  # of each run: its name, and the two axes


def settings_of(run: Run) -> Mapping[str, Any]:
    """A run's settings by dotted name; a range is one setting."""
    return _settings(run.config)


@functools.lru_cache(maxsize=2 * MOST_RUNS)
def _settings(config: RunConfig) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    for name, value in json.loads(config.to_json()).items():
        if name in ("tasks", "model"):
            found |= {f"{name}.{part}": each for part, each in value.items()}
        else:
            found[name] = value
    return found


def varied(runs: Sequence[Run]) -> list[str]:
    """The settings that are not the same for all of the runs, the seed among them."""
    return _varied([settings_of(run) for run in runs])


def _varied(all_settings: Sequence[Mapping[str, Any]]) -> list[str]:
    names = dict.fromkeys(name for settings in all_settings for name in settings)
    return [name for name in names if len({_key(settings.get(name)) for settings in all_settings}) > 1]


def grouped(runs: Sequence[Run], by: Sequence[str] = ()) -> list[Group]:
    """The runs in groups that agree in all settings but the seed, or in those of `by` alone.

    Raises:
        StoreError: there are too many runs, or `by` names no setting of theirs.
    """
    if len(runs) > MOST_RUNS:
        raise StoreError(f"{len(runs):,} runs are too many to compare: at most {MOST_RUNS} can be; narrow the search.")
    all_settings = [settings_of(run) for run in runs]
    known = {name for settings in all_settings for name in settings}
    for name in by:
        if runs and name not in known:
            raise StoreError(
                f"by = {name!r} is not a setting of these runs: it must be one of {', '.join(sorted(known))}."
            )
    differing = [name for name in varied(runs) if name != "seed"]
    parts: dict[tuple[str, ...], list[int]] = {}
    for i, settings in enumerate(all_settings):
        key = tuple(_key(settings.get(name)) for name in (by or differing))
        parts.setdefault(key, []).append(i)
    shown = list(by) or differing
    telling = {} if by else _telling(all_settings)
    groups = []
    for members in parts.values():
        first = all_settings[members[0]]
        settings = {name: first.get(name) for name in shown}
        told = {name: settings[name] for name in shown if by or name in telling[first[_FAMILY]]}
        groups.append(Group(_name([runs[i] for i in members], told), settings, tuple(runs[i] for i in members)))
    return groups


def _telling(all_settings: Sequence[Mapping[str, Any]]) -> dict[str, set[str]]:
    """By family, what tells its runs from others: the family, and what differs among them. The rest follows from it."""
    families: dict[str, list[Mapping[str, Any]]] = {}
    for settings in all_settings:
        families.setdefault(settings[_FAMILY], []).append(settings)
    return {family: {_FAMILY, *_varied(alike)} for family, alike in families.items()}


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _name(runs: Sequence[Run], settings: Mapping[str, Any]) -> str:
    """What tells a group from the others, in words; with one setting or none, the runs' own."""
    if not settings:
        return runs[0].name if len(runs) == 1 else runs[0].preset or runs[0].name
    told = {name.rpartition(".")[2] if name.startswith(PARTS) else name: v for name, v in settings.items()}
    if isinstance(told.get("table"), str):
        told["table"] = told["table"][:8]  # of its hash, which no eye tells from another's by all of its digits
    return ", ".join(f"{name} {said(value)}" for name, value in told.items())


def curves(store: Store, groups: Sequence[Group], *, spread: str = "std", smoothing: float = 0.9) -> list[Curve]:
    """Each group's loss over training: the mean of its runs, and the spread around it where there are several."""
    losses = _losses(store, [run for group in groups for run in group.runs])
    found = []
    for group in groups:
        parts = [(run.name, *losses[run.id]) for run in group.runs]
        singles = [(name, x, _smooth(y, smoothing)) for name, x, y in parts if len(x)]
        found.append(curve_of(group.name, singles, spread))
    return found


_losses = Remembered[Losses](lambda store, run_ids: store.losses(run_ids))


def _smooth(values: np.ndarray, smoothing: float) -> np.ndarray:
    """A moving average of logarithms, as losses are drawn: a meta-batch that blows up is no hill of a hundred rows."""
    if not smoothing or not len(values):
        return values
    from scipy.signal import lfilter  # a second to import, for those who compare

    logs = np.log(values.clip(min=1e-30))
    # The average whose weights add up to one from the first row on, as pandas' ewm has it.
    keep = smoothing ** np.arange(1, len(logs) + 1)
    averages: np.ndarray = np.exp(lfilter([1 - smoothing], [1, -smoothing], logs) / (1 - keep))
    return averages


def curve_of(name: str, singles: list[tuple[str, np.ndarray, np.ndarray]], spread: str) -> Curve:
    """The mean of curves `(name, x, y)`, wherever one of them is finite, and the spread around it."""
    if not singles:
        none = np.zeros(0)
        return Curve(name, none, none, none, none, none, [])
    grid = np.unique(np.concatenate([x for _, x, _ in singles]))
    values = np.stack(
        [y if len(x) == len(grid) else np.interp(grid, x, y, left=np.nan, right=np.nan) for _, x, y in singles]
    )
    count = np.isfinite(values).sum(axis=0)
    grid, values, count = grid[count > 0], values[:, count > 0], count[count > 0]
    mean = np.nanmean(values, axis=0)
    smallest, largest = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    if spread == "range":
        low, high = smallest, largest
    else:
        off = np.where(count > 1, np.sqrt(np.nansum((values - mean) ** 2, axis=0) / np.maximum(count - 1, 1)), 0.0)
        half = off / np.sqrt(count) if spread == "se" else off
        low, high = np.maximum(mean - half, 0.1 * smallest), mean + half  # a loss is above zero
    return Curve(name, grid, mean, low, high, count, singles)


def figures(store: Store, runs: Sequence[Run], figure: str) -> dict[str, float]:
    """Each run's figure, by its id; those that have none are left out."""
    if figure == "best":
        return {run.id: run.best_loss for run in runs if run.best_loss is not None}
    found = {}
    for run_id, (_, values) in _losses(store, runs).items():
        if len(values):
            found[run_id] = float(values[-LAST_ROWS:].mean() if figure == "last" else values.min())
    return {run_id: value for run_id, value in found.items() if math.isfinite(value)}


def comparison(
    store: Store,
    groups: Sequence[Group],
    *,
    figure: str = "best",
    spread: str = "std",
    reference: str | None = None,
) -> pd.DataFrame:
    """A row per group, the best first: how many runs, the figure's mean and spread, the settings that differ.

    With a `reference` group, how far each is from it: a mean difference over the seeds that both have, with the 95 %
    interval of a paired t-test where there are two or more; over all runs, without one, where they share no seed.

    Raises:
        StoreError: no group is called as `reference` says.
    """
    values = figures(store, [run for group in groups for run in group.runs], figure)
    by_name = {group.name: group for group in groups}
    if reference is not None and reference not in by_name:
        raise StoreError(f"reference = {reference!r} is no group: it must be one of {'; '.join(by_name)}.")
    rows = []
    for group in groups:
        here = [values[run.id] for run in group.runs if run.id in values]
        row: dict[str, Any] = {"Group": group.name, "Runs": len(group.runs)}
        missing = len(group.runs) - len(here)
        row["Without a figure"] = missing
        row[FIGURES[figure]] = float(np.mean(here)) if here else math.nan
        row[SPREADS[spread].capitalize()] = _spread(here, spread)
        row["Diverged or failed"] = sum(run.status in ("diverged", "failed") for run in group.runs)
        if reference is not None:
            row["Difference"], row["95 % interval"], row["Shared seeds"] = _difference(
                group, by_name[reference], values
            )
        rows.append(row | {name: said(value) for name, value in group.settings.items()})
    frame = pd.DataFrame(rows)
    for column in ("Without a figure", "Diverged or failed"):
        if len(frame) and not frame[column].any():
            frame = frame.drop(columns=column)
    return frame.sort_values(FIGURES[figure], kind="stable", ignore_index=True) if len(frame) else frame


def _spread(values: Sequence[float], spread: str) -> str:
    if len(values) < 2:
        return "–"
    if spread == "range":
        return f"{loss(min(values))} to {loss(max(values))}"
    off = float(np.std(values, ddof=1))
    return f"± {off / len(values) ** 0.5 if spread == 'se' else off:.2g}"


def _difference(group: Group, other: Group, values: Mapping[str, float]) -> tuple[float, str, int]:
    """Mean difference, its interval in words, and over how many seeds."""
    if group is other:
        return 0.0, "the reference", len({run.config.seed for run in group.runs})

    def by_seed(one: Group) -> dict[int, float]:
        return {run.config.seed: values[run.id] for run in one.runs if run.id in values}

    mine, theirs = by_seed(group), by_seed(other)
    shared = sorted(mine.keys() & theirs.keys())
    if not shared:
        if not mine or not theirs:
            return math.nan, "–", 0
        return float(np.mean([*mine.values()]) - np.mean([*theirs.values()])), "no shared seed", 0
    differences = np.array([mine[seed] - theirs[seed] for seed in shared])
    mean = float(differences.mean())
    if len(shared) < 2:
        return mean, "one seed only", 1
    from scipy.special import stdtrit  # Student's t, without all the other distributions

    half = float(stdtrit(len(shared) - 1, 0.975) * differences.std(ddof=1) / len(shared) ** 0.5)
    return mean, f"{mean - half:+.3g} to {mean + half:+.3g}", len(shared)


def of_runs(store: Store, runs: Sequence[Run], figure: str) -> pd.DataFrame:
    """A row per run that has the figure: its name, its status, the settings that vary, and the figure, last.

    The settings are those that vary among these runs: the others would be axes of one value.
    """
    values = figures(store, runs, figure)
    shown = [run for run in runs if run.id in values]
    names = varied(shown)
    rows = []
    for run in shown:
        settings = settings_of(run)
        about = {"Run": run.name, "Status": run.status}
        rows.append(about | {name: settings.get(name) for name in names} | {FIGURES[figure]: values[run.id]})
    frame = pd.DataFrame(rows, dtype=object)  # a setting that a run does not have stays None, and a whole number whole
    return frame.astype({FIGURES[figure]: float}) if rows else frame


def settings_in(frame: pd.DataFrame) -> list[str]:
    """The settings that a frame of `of_runs` holds."""
    return list(frame.columns[2:-1])


def heat(frame: pd.DataFrame, across: str, up: str) -> pd.DataFrame:
    """The mean figure of the runs in `frame` (that of `of_runs`) by two of their settings: columns across, rows up."""
    figure = frame.columns[-1]
    cells = frame.assign(**{across: frame[across].map(_place), up: frame[up].map(_place)})
    table = cells.pivot_table(values=figure, index=up, columns=across, aggfunc="mean", sort=True)
    return table.rename(index=said, columns=said)


def _place(value: Any) -> Any:
    """What sorts as the value does: numbers by size, others by their text."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else said(value)


class Importance(NamedTuple):
    """How much each setting decides."""

    shares: dict[str, float]  # by setting, the largest first: how much of the variance its values account for
    explained: float  # of that variance, by all settings together, on runs that were left out: at most 1


def importance(frame: pd.DataFrame) -> Importance | None:
    """How much each setting decides what runs reach; None with fewer than `LEAST_FOR_IMPORTANCE` of them.

    A random forest predicts the figure's logarithm from the settings; a setting counts for as much as its predictions
    of the runs that were left out get worse once that setting's values are shuffled (Breiman 2001, section 10).
    """
    if len(frame) < LEAST_FOR_IMPORTANCE:
        return None
    names = [name for name in settings_in(frame) if name != "seed"]
    values = np.log10(frame[frame.columns[-1]].clip(lower=1e-12).to_numpy(dtype=float))
    if not names or np.ptp(values) == 0:
        return None
    columns = []
    for name in names:
        places = frame[name].map(_place)
        order = {value: number for number, value in enumerate(sorted(set(places), key=lambda v: (str(type(v)), v)))}
        columns.append(places.map(order).to_numpy(dtype=float))
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance
    from sklearn.model_selection import KFold

    settings = np.stack(columns, axis=1)
    falls, predicted = np.zeros(len(names)), np.zeros(len(values))
    for seen, left_out in KFold(5, shuffle=True, random_state=0).split(settings):
        forest = RandomForestRegressor(60, random_state=0).fit(settings[seen], values[seen])
        predicted[left_out] = forest.predict(settings[left_out])
        parts = settings[left_out], values[left_out]
        shuffled = permutation_importance(forest, *parts, n_repeats=5, random_state=0, scoring="neg_mean_squared_error")
        falls += shuffled.importances_mean / 5
    shares = dict(zip(names, (np.clip(falls, 0.0, None) / values.var()).tolist(), strict=True))
    explained = 1 - float(np.mean((predicted - values) ** 2) / values.var())
    return Importance(dict(sorted(shares.items(), key=lambda item: -item[1])), explained)


def _number(value: float) -> str:
    return loss(value) if math.isfinite(value) else "–"


def as_latex(frame: pd.DataFrame) -> str:
    """A table for a paper."""
    shown = frame.map(lambda value: _number(value) if isinstance(value, float) else str(value))
    text: str = shown.to_latex(index=False, escape=True)
    return text
