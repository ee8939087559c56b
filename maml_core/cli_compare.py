"""Many runs side by side at the command line."""

import argparse
import json
from typing import Any

from maml_core.errors import StoreError
from maml_core.evaluation.compare import FIGURES, SPREADS, as_latex, comparison, grouped
from maml_core.evaluation.listing import matching
from maml_core.store.store import Store
from maml_core.words import loss


def add_compare_options(command: argparse.ArgumentParser) -> None:
    """What `compare` takes."""
    command.add_argument("runs", metavar="RUN", nargs="*", help="ids; without any, all runs that --search finds")
    command.add_argument("--search", metavar="WORDS", default="", help="in names, tags, notes and settings")
    command.add_argument(
        "--by", metavar="FIELDS", default="", help="group by these settings, with commas (default: all but the seed)"
    )
    command.add_argument("--figure", choices=FIGURES, default="best", help="what to compare by (default best)")
    command.add_argument("--spread", choices=SPREADS, default="std", help="around a mean (default std)")
    command.add_argument("--reference", metavar="GROUP", help="a group, to see how far the others are from it")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print the table as CSV")
    form.add_argument("--latex", action="store_true", help="print the table as LaTeX")


def compare_runs(options: argparse.Namespace) -> dict[str, Any]:
    """Print the table of the groups.

    Raises:
        StoreError: there is no such run, no run at all, or no such group or setting.
    """
    store = Store(options.store)
    runs = [store.run(run_id) for run_id in dict.fromkeys(options.runs)] or matching(store.all_runs(), options.search)
    if not runs:
        raise StoreError("There are no runs to compare: train some first, or search for other words.")
    groups = grouped(runs, [name for name in options.by.split(",") if name])
    table = comparison(store, groups, figure=options.figure, spread=options.spread, reference=options.reference)
    if options.csv:
        print(table.to_csv(index=False), end="")
    elif options.latex:
        print(as_latex(table), end="")
    elif not options.json:
        print(table.to_string(index=False, float_format=loss, na_rep="–"))
    return {"groups": json.loads(table.to_json(orient="records"))}
