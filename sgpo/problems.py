"""Problems with answers: the record, the files they come from, and the split for the warm-up.

A problem file is JSON Lines (or one JSON array, as `.json`) with `id`, `problem`, `answer` and, where known,
`solution`, `subject`, `level`, `source`, `kind` and `system`. Parquet, CSV and Hugging Face datasets have columns of
the same names, or of others that `fields` maps; the layouts of TRL and verl are known (`sgpo/columns.py`).
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sgpo.columns import answer_and_solution, column_text, columns_of, system_turn
from sgpo.errors import InputError
from sgpo.io import read_rows, read_text, write_jsonl

FIELDS = ("id", "problem", "answer", "solution", "subject", "level", "source", "kind", "system")
MAX_CSV_FIELD = 2**31 - 1  # characters; Python's own limit of 131,072 is less than some reasoning traces have
FILE_TYPES = (".jsonl", ".json", ".ndjson", ".parquet", ".csv")
# GSM8K's `48/2 = <<48/2=24>>24` (arXiv 2110.14168). Numbers and operators alone: never code or prose.
CALCULATOR_MARK = re.compile(r"<<[-+*/().,%$\d ]*=([-+*/().,%$\d ]+)>>")

logger = logging.getLogger("sgpo")


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
        system: the system prompt of the chat that it came in.

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
    system: str | None = None

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
    kind: str = "math",
    on_bad: Callable[[str], None] | None = None,
    on_repeated: Callable[[str], None] | None = None,
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
        kind: the kind of rows that name none.
        on_bad: leave out every row that is no problem, and be told why; without it the first one is an error.
        on_repeated: leave out every row whose id (whose text, where rows have no ids) came before, and be told; without
            it the first one is an error.

    Returns:
        The problems in the order of the file.

    Raises:
        InputError: the source cannot be read or is empty, a row is no JSON object or has no problem or answer, an id
            occurs twice, or a problem has no such field. The message names the file, the row and the column.
    """
    if unknown := sorted(set(fields or {}) - set(FIELDS)):
        raise InputError(f"{source}: a problem has no field {unknown[0]!r}; its fields are {', '.join(FIELDS)}")
    name = str(source)
    problems: list[Problem] = []
    seen: dict[str, tuple[int, str]] = {}  # the row and the answer of each id
    for line, row in source_rows(name, split=split, subset=subset, revision=revision, on_bad=on_bad):
        where = f"{name}, row {line}"
        try:
            problem = problem_from_row(row, fields or {}, where=where, kind=kind)
        except InputError as error:
            if on_bad is None:
                raise
            on_bad(str(error))
            continue
        if problem.id in seen:
            repeated = _repeated(problem, where, *seen[problem.id])
            if on_repeated is None:
                raise InputError(repeated)
            on_repeated(repeated)
            continue
        seen[problem.id] = line, problem.answer
        problems.append(problem)
        if limit is not None and len(problems) >= limit:
            break
    if not problems:
        raise InputError(f"{name}: no problems in it; expected one JSON object with 'problem' and 'answer' per line")
    return problems


def _repeated(problem: Problem, where: str, first: int, answer: str) -> str:
    """What to say of a problem whose id came before."""
    other = "" if problem.answer == answer else f", with another answer ({problem.answer!r}, not {answer!r})"
    if problem.id == problem_id(problem.problem):
        return f"{where}: the same problem as in row {first}{other}; leave one out, or give them ids of their own"
    return f"{where}: id {problem.id!r} is already used in row {first}{other}; ids must be unique"


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


def problem_from_row(row: Mapping[str, Any], fields: Mapping[str, str], *, where: str, kind: str = "math") -> Problem:
    """Make a problem of a row of a file or dataset.

    Args:
        row: columns and their values.
        fields: the column of each field where it has another name.
        where: names the row in messages.
        kind: its kind, if it names none.

    Raises:
        InputError: the row has no problem or no answer, or something that is no text in one of its columns.
    """
    columns = {field: field for field in FIELDS} | columns_of(row, fields)
    values = {field: column_text(row, field, columns[field], where) for field in FIELDS}
    for field in ("problem", "answer"):
        if values[field] is None:
            column = columns[field]
            there = "" if column in row else f"; its columns are {', '.join(map(str, row))}"
            raise InputError(f"{where}: no {column!r}; every problem needs a text and a gold answer{there}")
    problem = str(values["problem"])
    answer, solution = str(values["answer"]), values["solution"]
    if columns["answer"] == columns["solution"] and "answer" not in fields:
        answer, solution = answer_and_solution(answer)
    system = values["system"]
    if "system" not in fields and system is None:
        system = system_turn(row, columns["problem"], where)
    return Problem(
        id=values["id"] or problem_id(problem),
        problem=problem,
        answer=answer,
        solution=without_calculator_marks(solution or "") or None,
        subject=values["subject"],
        level=values["level"],
        source=values["source"],
        kind=values["kind"] or kind,
        system=system,
    )


def system_prompt_for(problems: Iterable[Problem], given: str | None) -> str | None:
    """The system prompt of a run: the given one, or that of the chats that all of its problems came in.

    Raises:
        InputError: none is given, and they came with different ones.
    """
    if given is not None:
        return given
    found: dict[str | None, str] = {problem.system: problem.id for problem in problems}
    if len(found) > 1:
        shown = " and ".join(f"{system!r:.60} ({id_!r})" for system, id_ in list(found.items())[:2])
        raise InputError(
            f"the problems came with {len(found)} different system prompts, such as {shown}, and a run has one: set "
            "system_prompt"
        )
    taken = next(iter(found), None)
    if taken is not None:
        logger.warning("system_prompt is that of the problems: %.200r", taken)
    return taken


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
    source: str,
    *,
    split: str = "train",
    subset: str | None = None,
    revision: str | None = None,
    on_bad: Callable[[str], None] | None = None,
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Read the rows of a file or dataset, whatever they hold.

    Args:
        source: a file, or the id or folder of a dataset, as for `load_problems`.
        split: the split of a dataset.
        subset: the subset of a dataset.
        revision: the revision of a dataset.
        on_bad: as for `sgpo.io.read_rows`.

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
    return read_rows(path, on_bad=on_bad)


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        for place, column in enumerate(table.schema):
            if column.type == pa.float32():  # 0.1 is 0.1, not 0.10000000149
                table = table.set_column(place, column.name, table[place].cast(pa.string()).cast(pa.float64()))
        return table.to_pylist()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as parquet ({error})") from None


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    limit = csv.field_size_limit(MAX_CSV_FIELD)
    try:
        return list(csv.DictReader(io.StringIO(read_text(path), newline="")))
    except csv.Error as error:
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
