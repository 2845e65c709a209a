"""What an evaluation asks of a model, and the `hf` source of answers: a policy that is loaded here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from sgpo.errors import InputError
from sgpo.problems import Problem
from sgpo.prompts import autonomous_prompt
from sgpo.rollouts.engine import Sampling, decode_completions
from sgpo.rollouts.groups import seed_of

logger = logging.getLogger("sgpo.evaluation")


@dataclass(frozen=True, slots=True)
class Request:
    """One sample to draw: the `number`-th completion of a problem. `seed` alone decides its randomness."""

    problem: Problem
    number: int
    prompt: str
    seed: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A completion of a request; `tokens` is None where an endpoint does not count them, `max_tokens` where it was
    asked without a limit; `left_to_server` are the sampling options that an endpoint refused."""

    request: Request
    text: str
    tokens: int | None
    truncated: bool
    max_tokens: int | None
    left_to_server: tuple[str, ...] = ()


Keep = Callable[[Sequence[Answer]], None]


class Source(Protocol):
    """Where completions come from."""

    def token_limit(self, prompts: Sequence[str], max_tokens: int) -> int:
        """The tokens per completion that the model has room for after every prompt: at most `max_tokens`."""
        ...

    def sample(self, requests: Sequence[Request], sampling: Sampling, keep: Keep) -> list[str]:
        """Answer the requests, handing answers to `keep` as they come. Returns what went wrong with the others."""
        ...


def build_requests(problems: Sequence[Problem], *, samples: int, style: str, seed: int) -> list[Request]:
    """Every sample of an evaluation, with the seeds that `evaluate` uses too."""
    requests = []
    for problem in problems:
        prompt = autonomous_prompt(problem.problem, style=style)
        for number in range(samples):
            seed_here = seed_of(seed, "evaluation", problem.id, "autonomous", number)
            requests.append(Request(problem, number, prompt, seed_here))
    return requests


class LoadedModel:
    """A Hugging Face model, sampled by `hf` (on the GPU if there is one) or `vllm`, `batch_size` completions at a time.

    `vllm_options` are those of `vllm.LLM`. Raises InputError for a model that cannot be loaded.
    """

    def __init__(
        self, model: str, *, batch_size: int, engine: Literal["hf", "vllm"], vllm_options: Mapping[str, Any]
    ) -> None:
        from sgpo.rollouts.models import load_tokenizer

        self.name = model
        self.batch_size = batch_size
        self.tokenizer = load_tokenizer(model)
        self.context: int | None
        if engine == "vllm":
            from sgpo.rollouts.vllm import load_offline_vllm

            self.engine: Any = load_offline_vllm(model, self.tokenizer, **vllm_options)
            self.context = self.engine.context
        else:
            self.engine, self.context = self._load_hf(model)

    def _load_hf(self, model: str) -> tuple[Any, int | None]:
        import torch

        from sgpo.rollouts.engine import end_token_ids
        from sgpo.rollouts.hf import HFEngine
        from sgpo.rollouts.models import load_policy

        device = "cuda" if torch.cuda.is_available() else "cpu"
        policy = load_policy(model, dtype=torch.bfloat16 if device == "cuda" else torch.float32).to(device)
        eos_ids = end_token_ids(policy, self.tokenizer)
        engine = HFEngine(policy, pad_id=self.tokenizer.pad_token_id, eos_ids=eos_ids, batch_size=self.batch_size)
        return engine, getattr(policy.config, "max_position_embeddings", None)

    def token_limit(self, prompts: Sequence[str], max_tokens: int) -> int:
        """Lower, and says so, where the model's context is shorter. Raises InputError where a prompt fills it."""
        if self.context is None:
            return max_tokens
        longest = max(len(self._ids(prompt)) for prompt in dict.fromkeys(prompts))
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
        for start in range(0, len(requests), self.batch_size):
            batch = requests[start : start + self.batch_size]
            prompts = [self._ids(request.prompt) for request in batch]
            completions = self.engine.generate(prompts, sampling, seeds=[request.seed for request in batch])
            texts = decode_completions(self.tokenizer, prompts, completions)
            keep(
                [
                    Answer(request, text, len(completion.token_ids), not completion.finished, sampling.max_tokens)
                    for request, completion, text in zip(batch, completions, texts, strict=True)
                ]
            )
        return []

    def _ids(self, prompt: str) -> list[int]:
        from sgpo.rollouts.engine import encode_prompt

        return encode_prompt(self.tokenizer, prompt)
