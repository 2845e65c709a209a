"""What `sgpo study` does: run what is missing, then write the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from research.page import write_page
from research.plan import check_rates, load_study
from research.results import all_runs, best_rates, read_results
from research.schedule import run_study


def study_command(path: Path, *, table: str | None, quick: bool, page_only: bool) -> dict[str, Any]:
    """Returns the object of `sgpo study --json`. Raises ValueError for an unknown table, and as `load_study`."""
    study = load_study(path, quick=quick)
    if table is not None and table not in study.tables:
        raise ValueError(f"{path}: no table {table!r}; there are: {', '.join(study.tables)}")
    chosen = {name: part for name, part in study.tables.items() if table in (None, name)}
    if not page_only:
        for part in chosen.values():
            check_rates(study, part)
    made = 0 if page_only else run_study(study, all_runs(study, chosen.values()))
    page = write_page(study, f"sgpo study {path}")
    found = {name: read_results(study, part) for name, part in chosen.items()}
    return {
        "page": str(page),
        "made": made,
        "tables": {name: {"finished": len(r.finished), "planned": len(r.planned)} for name, r in found.items()},
        "best_rates": {name: best_rates(study, part) for name, part in chosen.items() if part.rates},
    }
