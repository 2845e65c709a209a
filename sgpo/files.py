"""How files are written: whole or not at all."""

from __future__ import annotations

from pathlib import Path


def write_text(path: Path, text: str, *, errors: str = "strict") -> None:
    """Write a text file in UTF-8 beside its place and rename it.

    No reader ever sees half of it, and where writing fails what was there stays. A kill leaves `.NAME.tmp`, which the
    next time writes over. `errors` as for `open`. Raises OSError.
    """
    beside = path.with_name(f".{path.name}.tmp")
    try:
        beside.write_text(text, encoding="utf-8", errors=errors)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
