"""The benchmarks that `sgpo eval` knows by name: where each comes from, and what it must hold to be that benchmark.

Most are files or datasets (`BENCHMARKS`). Those that a program makes, always the same, are registered by the module
that makes them (`register_benchmark`). A local folder (`--data-dir`) serves all files; they are held against a
checksum, so that two scores under one name are scores on the same problems. k, temperature, top-p and length are those
of the paper where it names the benchmark; every prompt is the autonomous one of the style `math`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sgpo.errors import InputError
from sgpo.io import counted
from sgpo.problems import Problem, load_problems

MAX_TOKENS = 32_768  # of a completion, in the paper


@dataclass(frozen=True, slots=True, kw_only=True)
class HubDataset:
    """A dataset of the Hugging Face hub at the commit `revision`."""

    name: str
    split: str
    revision: str
    subset: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    answer_after: str | None = None  # what stands before the answer, where the column holds a whole rationale


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A benchmark: `k` samples per problem; `file`, in a local folder, and its `sha256`; `source` of that file."""

    name: str
    rows: int
    k: int
    file: str
    sha256: str
    source: str
    hub: HubDataset | None
    style: str = "math"
    about: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeBenchmark:
    """A benchmark whose problems a program makes, the same at every call; `k` samples per problem."""

    name: str
    k: int
    make: Callable[[], list[Problem]]


BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="math500",
            rows=500,
            k=4,
            file="math500.jsonl",
            sha256="cd8dcd9e49d089ef1b7a654823c6976338fcfb44d4a2d9c9afb53b8437e29876",
            source="hkust-nlp/simpleRL-reason@cf1c7858bfc1 examples/simplelr_math_eval/data/math500/test.jsonl",
            hub=HubDataset(
                name="HuggingFaceH4/MATH-500",
                split="test",
                revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
                fields={"id": "unique_id"},
            ),
        ),
        Benchmark(
            name="amc23",
            rows=40,
            k=32,
            file="amc23.jsonl",
            sha256="981faed06aaa18e8adf52836b83c1b2400be2a8ececae94ee56c971c43c08317",
            source="QwenLM/Qwen2.5-Math@a45202bd16f1 evaluation/data/amc23/test.jsonl",
            hub=HubDataset(
                name="math-ai/amc23",
                split="test",
                revision="80815d37005feb82cd7f8fbc6901d5d3eff43057",
                fields={"problem": "question"},
            ),
            about="the 40 problems of the two AMC 12 of 2023; the set of 83 that goes by this name holds AMC22 too",
        ),
        Benchmark(
            name="olympiadbench",
            rows=675,
            k=4,
            file="olympiadbench.jsonl",
            sha256="df45292e0e5a1fadfc69ecb0a8c68f6cb24ccccac9fde776b284b7b8f59362f9",
            source="QwenLM/Qwen2.5-Math@a45202bd16f1 evaluation/data/olympiadbench/test.jsonl",
            hub=None,
            about="the 675 text-only English competition problems (OE_TO_maths_en_COMP); the sets on the hub have 674",
        ),
        Benchmark(
            name="aime24",
            rows=30,
            k=32,
            file="aime24.jsonl",
            sha256="b2394c3ac5df03944b6db2cdb97826716bc11b0f28c3b371513cd77fab4deeb8",
            source="QwenLM/Qwen2.5-Math@a45202bd16f1 evaluation/data/aime24/test.jsonl",
            hub=HubDataset(
                name="HuggingFaceH4/aime_2024", split="train", revision="2fe88a2f1091d5048c0f36abc874fb997b3dd99a"
            ),
        ),
        Benchmark(
            name="aime25",
            rows=30,
            k=32,
            file="aime25.jsonl",
            sha256="66cd2fc3bc20843a243541d8d105577047f02347ca8bd8fff8d023a79ada16db",
            source="ypwang61/One-Shot-RLVR@21ed529ec900 Qwen2.5-Eval/evaluation/data/aime25/test.jsonl",
            hub=HubDataset(name="math-ai/aime25", split="test", revision="563bb8404243c5f09de6ec262f2db674fe5bce9b"),
        ),
        Benchmark(
            name="minerva",
            rows=272,
            k=4,
            file="minerva_math.jsonl",
            sha256="6684a650fec4a214f89fd17afe9e6b16c97385ecced22cebab9e0d2f5c4118c9",
            source="QwenLM/Qwen2.5-Math@a45202bd16f1 evaluation/data/minerva_math/test.jsonl",
            hub=HubDataset(
                name="math-ai/minervamath",
                split="test",
                revision="ee46ddc498933b1977577953250ca5c66be64f96",
                fields={"problem": "question"},
            ),
        ),
        Benchmark(
            name="gsm8k",
            rows=1319,
            k=4,
            file="gsm8k_test.jsonl",
            sha256="0748f0ef797ff9c86ad91b17b9951410cd6f2b09859a10c670b0bf5af5021a12",
            source="QwenLM/Qwen2.5-Math@a45202bd16f1 evaluation/data/gsm8k/test.jsonl",
            hub=HubDataset(
                name="openai/gsm8k",
                split="test",
                subset="main",
                revision="740312add88f781978c0658806c59bc2815b9866",
                fields={"problem": "question"},
                answer_after="####",
            ),
        ),
    )
}

ALL_BENCHMARKS: dict[str, Benchmark | MadeBenchmark] = {**BENCHMARKS}


def register_benchmark(name: str, *, k: int, make: Callable[[], list[Problem]]) -> None:
    """Add a benchmark that a program makes to those known by name.

    Args:
        name: Its name in `--benchmarks`.
        k: Samples per problem.
        make: Returns its problems, the same at every call.

    Raises:
        InputError: The name is taken.
    """
    if name in ALL_BENCHMARKS:
        raise InputError(f"benchmark {name!r} exists already; register yours under another name")
    ALL_BENCHMARKS[name] = MadeBenchmark(name=name, k=k, make=make)


def benchmark_names(text: str) -> list[str]:
    """The names in `math500,aime24`.

    Raises:
        InputError: A name is unknown, or given twice.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in ALL_BENCHMARKS:
            raise InputError(
                f"unknown benchmark {name!r}; there are: {', '.join(ALL_BENCHMARKS)} (your own: --problems FILE)"
            )
    if not names or len(set(names)) < len(names):
        raise InputError(f"--benchmarks {text!r}: expected different names, separated by commas")
    return names


def load_benchmark(name: str, data_dir: str | Path | None = None) -> list[Problem]:
    """The problems of a benchmark.

    Args:
        name: One of `ALL_BENCHMARKS`.
        data_dir: A folder with the benchmarks' files; without it they come from the hub. A made one needs neither.

    Raises:
        InputError: The file is missing, has another number of rows, or another content; or the benchmark is not on the
            hub.
    """
    benchmark = ALL_BENCHMARKS[name]
    if isinstance(benchmark, MadeBenchmark):
        return benchmark.make()
    if data_dir is not None:
        return _from_folder(benchmark, Path(data_dir).expanduser() / benchmark.file)
    hub = benchmark.hub
    if hub is None:
        raise InputError(
            f"{name}: not on the hub in this form ({benchmark.about}); give --data-dir with {benchmark.file}, made "
            f"from {benchmark.source}"
        )
    problems = load_problems(hub.name, split=hub.split, subset=hub.subset, revision=hub.revision, fields=hub.fields)
    _check_rows(benchmark, hub.name, len(problems))
    return [_with_final_answer(problem, hub.answer_after) for problem in problems] if hub.answer_after else problems


def _from_folder(benchmark: Benchmark, path: Path) -> list[Problem]:
    problems = load_problems(path)
    _check_rows(benchmark, str(path), len(problems))
    if hashlib.sha256(path.read_bytes()).hexdigest() != benchmark.sha256:
        raise InputError(
            f"{path}: not the file of {benchmark.name} that scores are comparable on (its sha256 is not "
            f"{benchmark.sha256[:12]}...); get it from {benchmark.source}, or score it as --problems {path}"
        )
    return problems


def _check_rows(benchmark: Benchmark, where: str, rows: int) -> None:
    if rows != benchmark.rows:
        about = f" ({benchmark.about})" if benchmark.about else ""
        raise InputError(
            f"{where}: {counted(rows, 'problem')}, {benchmark.name} has {benchmark.rows}{about}; another set "
            "is scored by --problems FILE, under its own name"
        )


def _with_final_answer(problem: Problem, marker: str) -> Problem:
    return replace(problem, answer=problem.answer.rpartition(marker)[2].strip().replace(",", ""))
