"""What the commands share: one line for a user's mistake, and one JSON document alone on standard output."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TextIO, TypeVar

import typer

from sgpo.errors import InputError

P = ParamSpec("P")
T = TypeVar("T")
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


def one_line_errors(command: Callable[P, T]) -> Callable[P, T]:
    """A user's mistake (ValueError) and what the system refuses (OSError: a full disk, a missing permission) end the
    command with one line on standard error and exit code 2, Ctrl-C with exit code 130.

    SGPO_TRACEBACK=1 in the environment shows where a mistake came from.
    """

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except (ValueError, OSError) as error:
            if os.environ.get("SGPO_TRACEBACK"):
                raise
            print("error: " + " ".join(str(error).split()), file=sys.stderr)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            print("interrupted; what was finished is kept", file=sys.stderr)
            raise typer.Exit(130) from None

    return wrapped


@contextmanager
def work_on_stderr() -> Iterator[TextIO]:
    """Everything that the work prints goes to standard error, also what processes print that it starts (vLLM's do).

    Yields the real standard output, for the result, which is printed once the work is done.
    """
    output = sys.stdout
    output.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield output
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def print_json(document: Any, file: TextIO | None = None) -> None:
    """Print one JSON document."""
    print(json.dumps(document, indent=2, ensure_ascii=True), file=file or sys.stdout)


def check_new(path: Path | None, option: str) -> None:
    """Raises InputError, before any work, for a file that is to be made and exists already, or has no directory."""
    if path is not None and path.exists():
        raise InputError(f"{option} {path}: exists already, and nothing is written over; choose another name")
    if path is not None and not path.parent.is_dir():
        raise InputError(f"{option} {path}: no such directory {path.parent}")
