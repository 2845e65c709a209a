"""Problems with answers: the record, the files they come from, and the split for the warm-up.

A problem file is JSON Lines (or one JSON array, as `.json`) with `id`, `problem`, `answer` and, where known,
`solution`, `subject`, `level`, `source` and `kind`. Parquet, CSV and Hugging Face datasets have columns of the same
names, or of others that `fields` maps.
"""

from __future__ import annotations

import csv
import hashlib
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sgpo.errors import InputError
from sgpo.io import read_rows, write_jsonl

FIELDS = ("id", "problem", "answer", "solution", "subject", "level", "source", "kind")
MAX_CSV_FIELD = 2**31 - 1  # characters; Python's own limit of 131,072 is less than some reasoning traces have
FILE_TYPES = (".jsonl", ".json", ".ndjson", ".parquet", ".csv")
# GSM8K's `48/2 = <<48/2=24>>24` (arXiv 2110.14168). Numbers and operators alone: never code or prose.
CALCULATOR_MARK = re.compile(r"<<[-+*/().,%$\d ]*=([-+*/().,%$\d ]+)>>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One problem and its gold answer.

    Attributes:
        id: unique within a file; a strategy names its problem by it.
        problem: the text.
        answer: the gold answer, as text.
        solution: the strong model's solution, where there is one.
        subject: for tables by subject.
        level: for tables by level.
        source: where the problem comes from.
        kind: how an answer is judged (see `sgpo.verifier.kinds`).

    Example: `Problem(id="gsm8k-train-0", problem="Natalia sold clips to 48 ...", answer="72")`.
    """

    id: str
    problem: str
    answer: str
    solution: str | None = None
    subject: str | None = None
    level: str | None = None
    source: str | None = None
    kind: str = "math"

    def to_json(self) -> dict[str, Any]:
        """Write the problem as a JSON object, without the fields that are not set."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def problem_id(text: str) -> str:
    """Make the id of a problem that has none: a hash of its text."""
    return "p-" + hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def load_problems(
    source: str | Path,
    *,
    fields: Mapping[str, str] | None = None,
    split: str = "train",
    subset: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
) -> list[Problem]:
    """Load problems from a file or a Hugging Face dataset.

    Args:
        source: a `.jsonl`, `.json`, `.parquet` or `.csv` file, or the id or folder of a dataset.
        fields: the column of each field where it has another name (`{"problem": "question"}`); a dotted name reaches
            into lists and objects (`"generations.0"`).
        split: the split of a dataset; files have none.
        subset: the subset of a dataset.
        revision: the revision of a dataset.
        limit: load at most the first so many.

    Returns:
        The problems in the order of the file.

    Raises:
        InputError: the source cannot be read or is empty, a row is no JSON object or has no problem or answer, an id
            occurs twice, or a problem has no such field. The message names the file and the row.
    """
    if unknown := sorted(set(fields or {}) - set(FIELDS)):
        raise InputError(f"{source}: a problem has no field {unknown[0]!r}; its fields are {', '.join(FIELDS)}")
    name = str(source)
    problems: list[Problem] = []
    lines: dict[str, int] = {}  # the row of each id
    for line, row in source_rows(name, split=split, subset=subset, revision=revision):
        problem = problem_from_row(row, fields or {}, where=f"{name}, row {line}")
        if problem.id in lines:
            raise InputError(
                f"{name}, row {line}: id {problem.id!r} is already used in row {lines[problem.id]}; ids must be unique"
            )
        lines[problem.id] = line
        problems.append(problem)
        if limit is not None and len(problems) >= limit:
            break
    if not problems:
        raise InputError(f"{name}: no problems in it; expected one JSON object with 'problem' and 'answer' per line")
    return problems


def parse_fields(pairs: Iterable[str]) -> dict[str, str]:
    """Read the `fields` of `load_problems` from a command line's `FIELD=COLUMN` pairs.

    Raises:
        InputError: a pair is not of that form, or names no field of a problem.
    """
    fields: dict[str, str] = {}
    for pair in pairs:
        name, _, column = pair.partition("=")
        if not column or name not in FIELDS:
            raise InputError(f"--field {pair!r}: expected FIELD=COLUMN with a field of {', '.join(FIELDS)}")
        fields[name] = column
    return fields


def problem_from_row(row: Mapping[str, Any], fields: Mapping[str, str], *, where: str) -> Problem:
    """Make a problem of a row of a file or dataset.

    Args:
        row: columns and their values.
        fields: the column of each field where it has another name.
        where: names the row in messages.

    Raises:
        InputError: the row has no problem or no answer.
    """
    values = {field: _text(_lookup(row, fields.get(field, field))) for field in FIELDS}
    for field in ("problem", "answer"):
        if not (values[field] or "").strip():
            column = fields.get(field, field)
            there = "" if values[field] is not None else f"; its columns are {', '.join(map(str, row))}"
            raise InputError(f"{where}: no {column!r}; every problem needs a text and a gold answer{there}")
    problem, answer = str(values["problem"]), str(values["answer"])
    return Problem(
        id=values["id"] or problem_id(problem),
        problem=problem,
        answer=answer,
        solution=without_calculator_marks(values["solution"] or "") or None,
        subject=values["subject"],
        level=values["level"],
        source=values["source"],
        kind=values["kind"] or "math",
    )


def without_calculator_marks(solution: str) -> str:
    """Turn a rationale of GSM8K into text to learn from; any other solution stays as it is.

    The marks call a calculator that a policy does not have. The rationale ends without a word on the answer: where its
    last line ends a calculation, the result is the answer, and is written out as the prompts ask for it.
    """
    results = CALCULATOR_MARK.findall(solution.rstrip().rpartition("\n")[2])
    solution = CALCULATOR_MARK.sub("", solution)
    return f"{solution}\nThe answer is \\boxed{{{results[-1]}}}." if results and "\\boxed" not in solution else solution


def save_problems(problems: Iterable[Problem], path: str | Path) -> None:
    """Write problems as JSON Lines."""
    write_jsonl(Path(path), (problem.to_json() for problem in problems), escape=False)


def split_problems(
    problems: Sequence[Problem], fraction: float, *, seed: int, rank: Callable[[Problem], int | None] = lambda _: 0
) -> tuple[list[Problem], list[Problem]]:
    """Split problems at random into two parts.

    Args:
        problems: what to split.
        fraction: of the problems, those in the first part; from 0 to 1.
        seed: decides the split.
        rank: the first part is filled with problems of the lowest rank first, and those of rank None are never in it.

    Returns:
        The first part and the rest, both in the order of the input.

    Raises:
        InputError: `fraction` is out of range.
    """
    if not 0.0 <= fraction <= 1.0:
        raise InputError(f"the fraction of a split must lie between 0 and 1, got {fraction}")
    ranks = [rank(problem) for problem in problems]
    generator = random.Random(seed)
    count, chosen = round(fraction * len(problems)), set[int]()
    for level in sorted({level for level in ranks if level is not None}):
        places = [i for i, of_problem in enumerate(ranks) if of_problem == level]
        chosen.update(generator.sample(places, min(count - len(chosen), len(places))))
    return (
        [problem for i, problem in enumerate(problems) if i in chosen],
        [problem for i, problem in enumerate(problems) if i not in chosen],
    )


def source_rows(
    source: str, *, split: str = "train", subset: str | None = None, revision: str | None = None
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Read the rows of a file or dataset, whatever they hold.

    Args:
        source: a file, or the id or folder of a dataset, as for `load_problems`.
        split: the split of a dataset.
        subset: the subset of a dataset.
        revision: the revision of a dataset.

    Returns:
        Rows with their numbers: lines of JSON Lines and CSV, else places, from 1.

    Raises:
        InputError: the source cannot be read. The message names it.
    """
    path = Path(source).expanduser()
    suffix = path.suffix.lower()
    if suffix not in FILE_TYPES and not path.is_file():
        return _dataset_rows(source, split=split, subset=subset, revision=revision)
    if not path.is_file():
        raise InputError(f"{source}: no such problem file")
    if suffix == ".parquet":
        return enumerate(_parquet_rows(path), start=1)
    if suffix == ".csv":
        return enumerate(_csv_rows(path), start=2)  # the names of the columns are in line 1
    return read_rows(path)


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as parquet ({error})") from None


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    limit = csv.field_size_limit(MAX_CSV_FIELD)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error})") from None
    finally:
        csv.field_size_limit(limit)  # it is that of the whole process


def _dataset_rows(
    source: str, *, split: str, subset: str | None, revision: str | None
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows of a dataset of the hub, or of a folder: its files, or what `save_to_disk` wrote."""
    import datasets

    folder = Path(source).expanduser()
    # A saved dataset is told by its files; everything else is left to `load_dataset`, whatever it raises.
    try:
        if (folder / "dataset_dict.json").is_file():
            rows = datasets.load_from_disk(folder / split)
        elif (folder / "dataset_info.json").is_file():
            rows = datasets.load_from_disk(folder)
        else:
            name = str(folder) if folder.is_dir() else source
            with nullcontext() if folder.is_dir() else _cache_alone_without_hub(source):
                rows = datasets.load_dataset(name, subset, split=split, revision=revision)
    except Exception as error:
        raise InputError(
            f"{source}: neither a problem file nor a dataset that could be loaded ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no message'})"
        ) from None
    return enumerate(rows, start=1)


@contextmanager
def _cache_alone_without_hub(dataset: str) -> Iterator[None]:
    """While the hub refuses connections or has no address, look in the cache alone.

    The libraries would try again and again for each of several files: 24 seconds until a mistyped name is refused.
    """
    import datasets.config
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    try:
        get_hf_file_metadata(hf_hub_url(dataset, "README.md", repo_type="dataset"))
    except Exception as error:  # whatever else is wrong, loading has its own words for it
        # The class is known by its name: it is httpx2's, and httpx's before huggingface_hub 2.
        if type(error).__name__ == "ConnectError":
            datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def _lookup(row: Mapping[str, Any], name: str) -> Any:
    """The value of a column, or of a place inside it: `generations.0`. None where there is none."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, Sequence) and not isinstance(value, str) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # some files store the answer 27 as 27.0
    return value if isinstance(value, str) else str(value)
