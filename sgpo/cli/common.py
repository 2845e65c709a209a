"""What the commands share: one line for what a user can fix, one JSON document alone on standard output."""

from __future__ import annotations

import functools
import json
import os
import select
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TextIO, TypeVar

import typer

from sgpo.errors import InputError, SGPOError
from sgpo.io import counted, printable

if TYPE_CHECKING:
    from sgpo.evaluation.benchmarks import Benchmark, MadeBenchmark
    from sgpo.prompts import SavedPrompts

P = ParamSpec("P")
T = TypeVar("T")
PromptsFrom = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="Take prompts and limit from here: a run, a checkpoint or model of one, or a YAML file of prompts.",
    ),
]
KIND_HELP = "The kind of problems that name none: math, exact, choice, puzzle, or module:function of your own."
Bank = Annotated[Path, typer.Option("--bank", metavar="BANK.db", help="The bank: one SQLite file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


def one_line_errors(command: Callable[P, T]) -> Callable[P, T]:
    """End a command with one line on standard error where the user can fix what went wrong.

    That is an SGPOError (or another ValueError, which libraries raise for bad options), or what the system refuses
    (OSError: a full disk, a missing permission): exit code 2. Ctrl-C gives 130. A reader of the output that has gone
    is no error, see `main`. SGPO_TRACEBACK=1 in the environment shows where an error came from.
    """

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except (SGPOError, ValueError, OSError) as error:
            if os.environ.get("SGPO_TRACEBACK"):
                raise
            if isinstance(error, BrokenPipeError) and output_is_gone():
                raise  # and not a pipe to a process of ours
            print("error: " + " ".join(printable(str(error)).split()), file=sys.stderr)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            print("interrupted; what was finished is kept", file=sys.stderr)
            raise typer.Exit(130) from None

    return wrapped


def output_is_gone() -> bool:
    """Whether nobody reads standard output any more, as after `| head`."""
    poll = select.poll()
    poll.register(1, select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


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


def known_benchmarks() -> Mapping[str, Benchmark | MadeBenchmark]:
    """Every benchmark by name, with those that other parts of the package register when they are imported."""
    import sgpo.puzzles  # noqa: F401
    from sgpo.evaluation.benchmarks import ALL_BENCHMARKS

    return ALL_BENCHMARKS


def find_prompts(model: str | None, path: Path | None, style: str | None) -> SavedPrompts:
    """The prompts for a model: of the named style, or those of `path`, or those that it was trained with, or math.

    Args:
        model: A path or hub id; None for a served model, of which nothing is known.
        path: What --prompts-from names. A style beside a file of prompts has the texts that the file leaves out.
        style: What --prompt-style names.

    Raises:
        InputError: Nothing is found at `path`, or it is damaged; there is no such style.
    """
    from sgpo.prompts import PROMPTS_FILE, SavedPrompts, load_prompts, own_style, prompt_style, read_texts

    if path is not None and path.is_file() and path.name != PROMPTS_FILE:
        return SavedPrompts(style=own_style(read_texts(path, where="--prompts-from"), style or "math"), path=path)
    source = model if path is None else path.parent if path.is_file() else path
    found = None if source is None else load_prompts(source)
    if found is None and path is None and model is not None and not Path(model).expanduser().exists():
        found = _prompts_of_hub(model)
    if found is None and path is not None:
        raise InputError(
            f"--prompts-from {path}: no prompts here; name a run, a checkpoint or model of one, or a YAML file"
        )
    found = found or SavedPrompts(style=prompt_style(style or "math"))
    return found if style is None else replace(found, style=prompt_style(style), path=None)


def _prompts_of_hub(hub_id: str) -> SavedPrompts | None:
    """The prompts beside the weights of a hub model; None where its repository has none, or cannot be read: loading
    the model says why."""
    from huggingface_hub import hf_hub_download

    from sgpo.prompts import PROMPTS_FILE, load_prompts
    from sgpo.rollouts.models import resolve_model

    try:
        file = hf_hub_download(resolve_model(hub_id), PROMPTS_FILE)
    except (OSError, ValueError):
        return None
    return load_prompts(Path(file).parent)


def say_prompts(prompts: SavedPrompts, max_tokens: int) -> None:
    """Say on standard error which prompts are used, where they come from, and the limit of tokens."""
    origin = "" if prompts.path is None else f" from {prompts.path}"
    print(f"prompts {prompts.style.title}{origin}; at most {counted(max_tokens, 'token')}", file=sys.stderr)


def check_new(path: Path | None, option: str) -> None:
    """Check, before any work, a file that is to be made.

    Raises:
        InputError: It exists already, or its directory does not.
    """
    if path is not None and path.exists():
        raise InputError(f"{option} {path}: exists already, and nothing is written over; choose another name")
    if path is not None and not path.parent.is_dir():
        raise InputError(f"{option} {path}: no such directory {path.parent}")
