"""How files are written, whole or not at all, in a directory that one process holds; how JSON and JSON Lines are read;
how a count is said; what is installed.

There are two readers of JSON Lines. `read_rows` is for files that users give: the first bad line is an error that names
its row. `read_lines` is for files that a run may be writing, or was killed in the middle of: a bad line is left out and
counted.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sgpo.errors import InputError, RunDirectoryError

LOCK = ".lock"
_SURROGATE = re.compile("[\ud800-\udfff]")  # half a character, which JSON can escape and UTF-8 cannot hold
_held: set[Path] = set()  # the directories that this process holds

# Names that 0.1 gave, and their present ones: keys of `metrics.jsonl`, and counts under `problems` in `config.json`.
RENAMED_METRICS = {
    "targets/share": "targets/fraction",
    "clipped_share": "clipped_fraction",
    "divergence/capped_mean": "divergence/clipped_mean",
    "divergence/capped_share": "divergence/clipped_fraction",
}
RENAMED_COUNTS = {"per_step": "global_batch"}

GZIP = b"\x1f\x8b"  # how such a file begins


def write_text(path: Path, text: str, *, errors: str = "strict") -> None:
    """Write a text file in UTF-8, whole or not at all.

    No reader ever sees half of it, and where writing fails what was there stays. Each write has a staging file of its
    own, `.NAME.XXXXXXXX.tmp`, so two processes never write into one; a kill leaves it there. `errors` as
    for `open`.

    Raises:
        OSError: the file cannot be written; the message names it.
    """
    staging = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with named(path):
        try:
            staging.write_text(text, encoding="utf-8", errors=errors)
            staging.replace(path)
        except BaseException:
            staging.unlink(missing_ok=True)
            raise


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all; its directory is made if need be. Raises OSError as `write_text`."""
    with named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, _encodable(json.dumps(content, indent=2, default=str, ensure_ascii=False)) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]], *, escape: bool = True) -> None:
    """Write a JSON Lines file, whole or not at all; its directory is made if need be. Raises OSError as `write_text`.

    With `escape` everything beyond ASCII is escaped; files that people read and edit are written without.
    """
    with named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(_encodable(json.dumps(row, ensure_ascii=escape)) + "\n" for row in rows))


def append_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows to a JSON Lines file, which is made where it is missing.

    Raises:
        OSError: the file cannot be written; the message names it.
    """
    with named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))


def read_json(path: Path, *, errors: str = "strict") -> Any:
    """The content of a JSON file; `errors` as for `open`.

    Raises:
        InputError: it is no JSON; the message names the file.
        OSError: it cannot be opened.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8", errors=errors))
    except (ValueError, RecursionError) as error:  # ValueError: also no UTF-8, or a number of too many digits
        raise InputError(f"{path}: not a readable JSON file ({error})") from None


def read_text(path: Path, *, errors: str = "strict") -> str:
    """The text of a file that a user gives, without a byte order mark; `errors` as for `open`.

    Raises:
        InputError: there is no such file, it is compressed, or no UTF-8; the message names file and row.
        OSError: it cannot be opened.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    content = path.read_bytes()
    if content.startswith(GZIP):
        raise InputError(f"{path}: compressed with gzip; unpack it first (gunzip)")
    try:
        return content.decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, row {row}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def read_rows(path: Path, *, on_bad: Callable[[str], None] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON Lines file with the numbers of their lines, or of the array in a `.json` file with their
    places, from 1. With `on_bad` a row that is no JSON object is passed over, and its message handed on.

    Raises:
        InputError: there is no such file, or a row is no JSON object; the message names file and row.
    """
    text = read_text(path, errors="surrogateescape")  # so that one row that is no UTF-8 is one bad row
    is_array = path.suffix.lower() == ".json" and text.lstrip().startswith("[")
    for number, found in _array_rows(path, read_text(path)) if is_array else _line_rows(text):
        if isinstance(found, dict):
            yield number, found
            continue
        what = str(found) if isinstance(found, _NoRow) else f"a JSON {type(found).__name__}, expected an object"
        message = f"{path}, row {number}: {what}"
        if on_bad is None:
            raise InputError(message)
        on_bad(message)


def read_lines(path: Path) -> Iterator[dict[str, Any] | None]:
    """The objects of a JSON Lines file that may be cut off; None for each line that is no JSON object.

    Bytes that are no UTF-8 become U+FFFD. Raises OSError where the file cannot be opened.
    """
    # Split at \n alone: U+2028 and its like are legal inside JSON strings.
    with path.open("rb") as file:
        for line in file:
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8", errors="replace"))
            except (ValueError, RecursionError):  # ValueError: also a number of too many digits
                row = None
            yield row if isinstance(row, dict) else None


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A count and what is counted: `1 problem`, `2,000 problems`; `plural` where it is not the noun and an s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def installed_versions(*packages: str) -> dict[str, str]:
    """Return the version of each of these packages that is installed, by its name; the others are left out."""
    versions = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


@contextmanager
def holding(directory: Path) -> Iterator[None]:
    """Be the only process that writes into a directory, which is made where it is missing.

    The lock dies with the process, however that ends. Whoever holds a directory may hold it again. A file system that
    knows no locks refuses nobody.

    Raises:
        RunDirectoryError: another process holds it.
        OSError: it cannot be made.
    """
    directory = directory.absolute()
    if directory in _held:
        yield
        return
    made = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    lock = _lock(directory)
    _held.add(directory)
    try:
        yield
    finally:
        _held.discard(directory)
        (directory / LOCK).unlink(missing_ok=True)  # while it is locked: see _lock
        os.close(lock)
        with suppress(OSError):  # it is not empty
            if made:
                directory.rmdir()


def _lock(directory: Path) -> int:
    """Lock a directory by its file `.lock`, which says who holds it; returns the open file."""
    file = directory / LOCK
    while True:
        with named(file):
            lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.read(lock, 200).decode("utf-8", errors="replace").strip()
            os.close(lock)
            raise RunDirectoryError(
                f"{directory}: in use by another process ({who or 'it has just begun'}); wait for its end, or choose "
                "another directory"
            ) from None
        except OSError:
            return lock  # no locks on this file system
        # Who held it before may have removed the file in the meantime, and another may have made it anew.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), file.stat()):
                os.ftruncate(lock, 0)
                os.write(lock, f"process {os.getpid()} on {os.uname().nodename}\n".encode())
                return lock
        os.close(lock)


def _encodable(text: str) -> str:
    """JSON text that UTF-8 can hold: lone surrogates, which stand in strings alone, are escaped."""
    return _SURROGATE.sub(lambda half: f"\\u{ord(half[0]):04x}", text)


def check_unicode(text: str) -> None:
    """Raises InputError for a text with half a surrogate pair: JSON can escape that, no file or request can hold it."""
    if _SURROGATE.search(text):
        raise InputError("half a surrogate pair, which is no valid Unicode")


def printable(text: str) -> str:
    """A text without control characters: what a server, a model or a file says shall not steer the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Raises OSError that names `path`, for one of the system's that may not: a full disk names no file."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror or error}); what was finished is kept") from error


class _NoRow(str):
    """What is wrong with a line that is no JSON."""


def _line_rows(text: str) -> Iterator[tuple[int, Any]]:
    # Split at \n alone: U+2028 and its like are legal inside JSON strings.
    for number, line in enumerate(text.split("\n"), start=1):
        if _SURROGATE.search(line):
            yield number, _NoRow("not UTF-8 text")
        elif line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, _NoRow(f"not JSON ({_reason(error)}); expected one object per line")


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return "nested too deeply" if isinstance(error, RecursionError) else "a number of too many digits"


def _array_rows(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    try:
        return enumerate(json.loads(text), start=1)
    except (ValueError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise InputError(
            f"{path}{line}: not JSON ({_reason(error)}); expected an array of objects, or one object per line"
        ) from None
