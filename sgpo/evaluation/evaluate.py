"""The one evaluation loop: request -> completion -> verdict -> score.

`sgpo eval`, the trainer and the study all call `evaluate`; `sgpo score` enters where the verdicts are given
(`score_file`). Completions come from a `Source`: a model that is loaded here (`EngineSource`) or an endpoint. Every
prompt is the autonomous one. A completion depends on its problem, its number and the seed alone, so an interrupted
evaluation resumes completion by completion, and batches and processes change nothing.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from transformers import PreTrainedTokenizerBase

from sgpo.errors import EndpointError, InputError
from sgpo.evaluation.scores import CompletionRow, EvaluationResult, score_rows
from sgpo.evaluation.store import VERDICT_FIELDS, CompletionFile
from sgpo.io import counted, read_rows
from sgpo.problems import Problem, load_problems
from sgpo.prompts import PromptStyle, autonomous_prompt
from sgpo.rollouts.engine import Engine, Sampling, decode_completions, encode_prompt, end_token_ids
from sgpo.rollouts.groups import RewardFunction, judge_completions, seed_of
from sgpo.verifier import Verdict, Verifier

if TYPE_CHECKING:
    from sgpo.rollouts.vllm import OfflineVLLM

logger = logging.getLogger(__package__)


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to sample: the `number`-th of a problem. `seed` alone decides its randomness.

    `strategy_id` names the strategy that the prompt shows; an evaluation shows none.
    """

    problem: Problem
    number: int
    prompt: str
    seed: int
    strategy_id: str | None = None

    @property
    def key(self) -> tuple[str, str | None, int]:
        """What tells it from all others, as in its row of a file."""
        return self.problem.id, self.strategy_id, self.number


@dataclass(frozen=True, slots=True)
class SampledCompletion:
    """The completion of a request.

    `tokens` is None where an endpoint does not count them, `max_tokens` where it was asked without a limit;
    `left_to_server` names the sampling options that an endpoint refused.
    """

    request: Request
    text: str
    tokens: int | None
    truncated: bool
    max_tokens: int | None
    left_to_server: tuple[str, ...] = ()

    def to_row(self) -> dict[str, Any]:
        """The completion as a row of `eval/*.jsonl` that still lacks its verdict."""
        shown = self.request.strategy_id
        return {
            "problem_id": self.request.problem.id,
            "subject": self.request.problem.subject,
            **({"strategy_id": shown} if shown is not None else {}),
            "sample": self.request.number,
            "prompt": self.request.prompt,
            "completion": self.text,
            "tokens": self.tokens,
            "truncated": self.truncated,
        }


Keep = Callable[[Sequence[SampledCompletion]], None]


class Source(Protocol):
    """Where completions come from."""

    def token_limit(self, prompts: Sequence[str], max_tokens: int) -> int:
        """The tokens per completion that the model has room for after every prompt: at most `max_tokens`."""
        ...

    def sample(self, requests: Sequence[Request], sampling: Sampling, keep: Keep) -> list[str]:
        """Complete the requests, and hand completions to `keep` as they come. Returns what went wrong with others."""
        ...


@dataclass(slots=True)
class EngineSource:
    """A policy in this process, sampled by an engine.

    Args:
        engine: Turns token ids into completions.
        tokenizer: The policy's.
        batch_size: Completions that are sampled and kept at once; None samples all in one call.
        context: Tokens that a prompt and its completion have room for together; None where nothing limits them.
        name: The model's name, for messages.
    """

    engine: Engine | OfflineVLLM
    tokenizer: PreTrainedTokenizerBase
    batch_size: int | None = None
    context: int | None = None
    name: str = ""

    def token_limit(self, prompts: Sequence[str], max_tokens: int) -> int:
        """At most `max_tokens`; less, with a warning, where the model's context is shorter.

        Raises:
            InputError: A prompt fills the context.
        """
        if self.context is None:
            return max_tokens
        longest = max(len(encode_prompt(self.tokenizer, prompt)) for prompt in dict.fromkeys(prompts))
        room = self.context - longest
        if room < 1:
            raise InputError(
                f"{self.name}: its context of {self.context} tokens has no room for an answer after the longest "
                f"prompt ({longest} tokens); choose another model, or leave that problem out"
            )
        if room < max_tokens:
            logger.warning(
                "%s has a context of %d tokens: after the longest prompt (%d) completions are cut at %d tokens, not %d",
                self.name, self.context, longest, room, max_tokens,
            )  # fmt: skip
        return min(room, max_tokens)

    def sample(self, requests: Sequence[Request], sampling: Sampling, keep: Keep) -> list[str]:
        """Complete all requests, a batch at a time; nothing goes wrong with single ones."""
        # Without batches there is one call also for no request: engines that processes share wait for all of them.
        size = self.batch_size or max(1, len(requests))
        for start in range(0, len(requests) if self.batch_size else 1, size):
            batch = requests[start : start + size]
            ids = {text: encode_prompt(self.tokenizer, text) for text in {request.prompt for request in batch}}
            prompts = [ids[request.prompt] for request in batch]
            completions = self.engine.generate(prompts, sampling, seeds=[request.seed for request in batch])
            texts = decode_completions(self.tokenizer, prompts, completions)
            keep(
                [
                    SampledCompletion(
                        request, text, len(completion.token_ids), not completion.finished, sampling.max_tokens
                    )
                    for request, completion, text in zip(batch, completions, texts, strict=True)
                ]
            )
        return []


def load_source(
    model: str, *, engine: Literal["hf", "vllm"], batch_size: int, vllm_options: Mapping[str, Any]
) -> EngineSource:
    """Load a model to evaluate: by `hf` on the GPU if there is one, or by `vllm`.

    Args:
        model: A path, hub id or run directory.
        engine: What samples.
        batch_size: Completions that are sampled and kept at once.
        vllm_options: Further options of `vllm.LLM`.

    Raises:
        InputError: The model cannot be loaded, or vLLM is not installed.
    """
    import torch

    from sgpo.rollouts.hf import HFEngine
    from sgpo.rollouts.models import load_policy, load_tokenizer

    tokenizer = load_tokenizer(model)
    if engine == "vllm":
        from sgpo.rollouts.vllm import load_offline_vllm

        vllm = load_offline_vllm(model, tokenizer, **vllm_options)
        return EngineSource(vllm, tokenizer, batch_size, vllm.context, model)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    policy = load_policy(model, dtype=torch.bfloat16 if device == "cuda" else torch.float32).to(device)
    hf = HFEngine(
        policy, pad_id=tokenizer.pad_token_id, eos_ids=end_token_ids(policy, tokenizer), batch_size=batch_size
    )
    return EngineSource(hf, tokenizer, batch_size, getattr(policy.config, "max_position_embeddings", None), model)


def build_requests(problems: Sequence[Problem], *, samples: int, style: str | PromptStyle, seed: int) -> list[Request]:
    """Every completion of an evaluation, in the order of the problems."""
    requests = []
    for problem in problems:
        prompt = autonomous_prompt(problem.problem, style=style)
        for number in range(samples):
            own_seed = seed_of(seed, "evaluation", problem.id, "autonomous", number)
            requests.append(Request(problem, number, prompt, own_seed))
    return requests


def evaluate(
    problems: Sequence[Problem],
    source: Source,
    verifier: Verifier | RewardFunction,
    sampling: Sampling,
    *,
    samples: int,
    style: str | PromptStyle,
    seed: int,
    kept: CompletionFile | None = None,
    rank: int = 0,
    world_size: int = 1,
    gather: Callable[[list[CompletionRow]], list[CompletionRow]] = list,
) -> EvaluationResult:
    """Sample each problem `samples` times from its autonomous prompt, judge, and score.

    Args:
        problems: At least one, no two with the same id.
        source: Where completions come from.
        verifier: Ours, or a function `(completion, problem) -> Verdict | float`; a number above one half passes, NaN
            counts as `timeout`.
        sampling: Temperature, top-p, and the limit of tokens, which the source may lower.
        samples: Completions of each problem.
        style: The prompts: a style or its name.
        seed: Seed of sampling and bootstrap.
        kept: Resume with the completions in this file, and append every new one as it comes; verdicts are added once
            all are there. Its rows also say under which limit each was sampled, since a later invocation may add to
            them. For one process alone.
        rank: Of `world_size` processes that share the problems, which one this is.
        world_size: How many processes there are.
        gather: Returns the rows of all processes for those of this one.

    Returns:
        The scores and the rows behind them, the same in every process.

    Raises:
        InputError: There is no problem, an id occurs twice, or no problem has all its samples.
        EndpointError: The source completed nothing.
    """
    if not problems:
        raise InputError("no problems to evaluate on")
    if len({problem.id for problem in problems}) < len(problems):
        raise InputError("two problems of an evaluation have the same id")
    requests = build_requests(problems[rank::world_size], samples=samples, style=style, seed=seed)
    rows, failures, limit = complete(requests, source, verifier, sampling, kept=kept, shared=world_size > 1)
    # From here on every process has all rows, and computes the same scores.
    everyone = gather(list[CompletionRow](rows))
    if failures and not everyone:
        raise EndpointError(f"nothing was answered; {failures[0]}")
    result = score_rows(problems, everyone, verifier, samples=samples, seed=seed)
    limits = [row.get("max_tokens", limit) for row in everyone]
    return replace(result, failures=tuple(failures), max_tokens=None if None in limits else max(limits))


def complete(
    requests: Sequence[Request],
    source: Source,
    verifier: Verifier | RewardFunction,
    sampling: Sampling,
    *,
    kept: CompletionFile | None = None,
    shared: bool = False,
) -> tuple[list[dict[str, Any]], list[str], int]:
    """Sample what is not there yet, then judge.

    Args:
        requests: The completions that are wanted.
        source: As for `evaluate`.
        verifier: As for `evaluate`.
        sampling: As for `evaluate`.
        kept: As for `evaluate`.
        shared: Other processes sample as well, through an engine that waits for all of them.

    Returns:
        The judged rows, also those that `kept` has beyond the requests; what went wrong with single completions; and
        the limit of tokens.
    """
    rows: list[dict[str, Any]] = kept.read() if kept else []
    limit = source.token_limit([request.prompt for request in requests], sampling.max_tokens)

    def keep(sampled: Sequence[SampledCompletion]) -> None:
        new = [one.to_row() for one in sampled]
        if kept:
            for row, one in zip(new, sampled, strict=True):
                row |= {"max_tokens": one.max_tokens, "left_to_server": one.left_to_server}
            kept.append(new)
        rows.extend(new)

    # Every completion is kept as it comes, and judged when nothing can be lost any more.
    there = {(row["problem_id"], row.get("strategy_id"), row["sample"]) for row in rows}
    missing = [request for request in requests if request.key not in there]
    failures: list[str] = []
    if missing or shared:
        failures = source.sample(missing, replace(sampling, max_tokens=limit), keep)
    by_id = {request.problem.id: request.problem for request in requests}
    unjudged = [row for row in rows if not row.keys() >= VERDICT_FIELDS and row["problem_id"] in by_id]
    judged = judge_rows(unjudged, [by_id[row["problem_id"]] for row in unjudged], verifier)
    for row, with_verdict in zip(unjudged, judged, strict=True):
        row |= with_verdict
    if kept and unjudged:
        kept.write(rows)
    return rows, failures, limit


def judge_rows(
    rows: Sequence[dict[str, Any]], problems: Sequence[Problem], verifier: Verifier | RewardFunction
) -> list[dict[str, Any]]:
    """Completions of these problems with `verdict` and `extracted` added to each row."""
    pairs = [(row["completion"], problem) for row, problem in zip(rows, problems, strict=True)]
    judged = []
    finished = [row.get("truncated") is not True for row in rows]
    for row, verdict in zip(rows, judge_completions(pairs, verifier, finished=finished), strict=True):
        if not isinstance(verdict, Verdict):
            verdict = _verdict_of(verdict, row["completion"])
        judged.append({**row, "verdict": verdict.kind, "extracted": verdict.extracted})
    return judged


def score_file(
    completions: Path, problems: Path, *, samples: int | None = None, seed: int = 0, kind: str = "math"
) -> EvaluationResult:
    """Judge and score completions that exist already.

    Args:
        completions: Rows `{"id": ..., "completion": ...}`, several of one id being its samples; rows that `sgpo eval`
            wrote (`problem_id`) are read too.
        problems: The problem file that they answer.
        samples: Score the first so many of each problem; a problem that has fewer is missing. Without it, every problem
            that occurs must have the same number.
        seed: Seed of the bootstrap.
        kind: The kind of problems that name none.

    Raises:
        InputError: A row is not JSON, has no id or completion, names an unknown problem, or is the sample of another
            (the message names file and row); or a problem has another number of completions than the others.
    """
    loaded = load_problems(problems, kind=kind)
    by_id = {problem.id: problem for problem in loaded}
    seen: Counter[str] = Counter()
    numbered: dict[tuple[str, int], int] = {}  # the row of each sample that `sgpo eval` wrote
    rows: list[dict[str, Any]] = []
    for number, row in read_rows(completions):
        where = f"{completions}, row {number}"
        id_ = row.get("id", row.get("problem_id"))
        completion = row.get("completion")
        if id_ is None or not isinstance(completion, str):
            found = sorted(row) if id_ is None or "completion" not in row else f"completion {completion!r:.40}"
            raise InputError(f"{where}: expected {{'id': ..., 'completion': 'text'}}, found {found}")
        if (id_ := str(id_)) not in by_id:
            raise InputError(f"{where}: no problem {id_!r} in {problems}; score against the file that it was made from")
        if isinstance(sample := row.get("sample"), int):
            first = numbered.setdefault((id_, sample), number)
            if first != number:
                raise InputError(f"{where}: sample {sample} of problem {id_!r} again, as in row {first}; leave one out")
        tokens, truncated = row.get("tokens"), row.get("truncated")
        rows.append(
            {
                "problem_id": id_,
                "sample": seen[id_],
                "completion": completion,
                "tokens": tokens if isinstance(tokens, int) else None,
                "truncated": truncated if isinstance(truncated, bool) else None,
            }
        )
        seen[id_] += 1
    if not rows:
        raise InputError(f"{completions}: no completions in it; expected one JSON object per line")
    k = samples or _same_count(completions, seen)
    with Verifier() as verifier:
        judged = judge_rows(rows, [by_id[row["problem_id"]] for row in rows], verifier)
        return score_rows(loaded, judged, verifier, samples=k, seed=seed)


def _verdict_of(reward: float, completion: str) -> Verdict:
    """A reward says no more than passed or not; NaN says that it could not be given."""
    if math.isnan(reward):
        return Verdict("timeout")
    return Verdict("correct" if reward > 0.5 else "wrong", completion)


def _same_count(completions: Path, seen: Counter[str]) -> int:
    (most, k), (least, fewest) = seen.most_common()[0], seen.most_common()[-1]
    if k != fewest:
        raise InputError(
            f"{completions}: problem {most!r} has {counted(k, 'completion')}, problem {least!r} has {fewest}; "
            "--samples K scores the first K of each and counts problems with fewer as missing"
        )
    return k
