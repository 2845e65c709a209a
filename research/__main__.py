"""Run a grid of methods and seeds, two runs at a time, and write the page about it. A later start resumes.

Examples:
    python -m research                     # every table of research/study.yaml: what is missing, then the page
    python -m research --quick             # a small version, to see that everything runs
    python -m research --table main        # one table
    python -m research --page-only         # run nothing; write the page anew
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from research.page import write_page
from research.plan import SHIPPED, check_rates, load_study
from research.results import all_runs, best_rates, read_results
from research.schedule import run_study
from sgpo.errors import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: a user's mistake ends in one line on standard error. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m research", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path, nargs="?", default=SHIPPED, help="a YAML file (default: %(default)s)")
    parser.add_argument("--table", help="one table of the study; all of them, if not given")
    parser.add_argument("--quick", action="store_true", help="a small version, to see that everything runs")
    parser.add_argument("--page-only", action="store_true", help="run nothing; write the page anew")
    parser.add_argument("--json", action="store_true", help="print one JSON document on standard output")
    options = parser.parse_args(arguments)
    try:
        with redirect_stdout(sys.stderr):
            result = make_study(options.study, table=options.table, quick=options.quick, page_only=options.page_only)
    except (ValueError, OSError) as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    print(json.dumps(result, indent=2) if options.json else result["page"])
    return 0


def make_study(path: Path, *, table: str | None, quick: bool, page_only: bool) -> dict[str, Any]:
    """Make the runs that are missing, then write the page.

    Args:
        path: The study file.
        table: The only table whose runs are made; the page shows all of them in any case.
        quick: Lay the file's `quick` section over the rest.
        page_only: Make no run.

    Returns:
        The object of `--json`.

    Raises:
        InputError: There is no such table, an arm has no learning rate, or the file is wrong (`load_study`).
    """
    study = load_study(path, quick=quick)
    if table is not None and table not in study.tables:
        raise InputError(f"{path}: no table {table!r}; there are: {', '.join(study.tables)}")
    chosen = {name: part for name, part in study.tables.items() if table in (None, name)}
    if not page_only:
        for part in chosen.values():
            check_rates(study, part)
    made = 0 if page_only else run_study(study, all_runs(study, chosen.values()))
    page = write_page(study, "python -m research" + ("" if path == SHIPPED else f" {path}"))
    found = {name: read_results(study, part) for name, part in chosen.items()}
    return {
        "page": str(page),
        "made": made,
        "tables": {name: {"finished": len(r.finished), "planned": len(r.planned)} for name, r in found.items()},
        "best_rates": {name: best_rates(study, part) for name, part in chosen.items() if part.rates},
    }


if __name__ == "__main__":
    sys.exit(main())
