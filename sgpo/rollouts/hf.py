"""The `hf` engine: the training model itself generates, on a CPU or one GPU.

Models with a plain cache go through our own decoding loop, any other through `model.generate`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from sgpo.rollouts.decoding import can_decode, decode
from sgpo.rollouts.engine import Completion, Sampling
from sgpo.rollouts.sampling import sample_tokens, uniform_numbers


class HFEngine:
    """Samples at most `batch_size` completions at a time."""

    def __init__(self, model: Any, *, pad_id: int, eos_ids: Sequence[int], batch_size: int = 256) -> None:
        self.model = model
        self.pad_id = pad_id
        self.eos_ids = list(eos_ids)
        self.batch_size = batch_size

    def sync_weights(self, model: Any) -> None:
        self.model = model

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, seeds: Sequence[int]
    ) -> list[Completion]:
        assert len(prompts) == len(seeds)
        # Neighbours of one length waste no padding; the seeds make the order irrelevant to the result.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        completions: dict[int, Completion] = {}
        was_training = self.model.training
        self.model.eval()
        try:
            for start in range(0, len(order), self.batch_size):
                rows = order[start : start + self.batch_size]
                batch = self._generate([prompts[i] for i in rows], sampling, [seeds[i] for i in rows])
                completions.update(zip(rows, batch, strict=True))
        finally:
            self.model.train(was_training)
        return [completions[i] for i in range(len(prompts))]

    def _generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]) -> list[Completion]:
        device = self.model.device
        uniforms_BT = uniform_numbers(seeds, sampling.max_tokens).to(device)
        if can_decode(self.model):
            tokens_BT, logprobs_BT = decode(
                self.model, prompts, sampling, uniforms_BT, eos_ids=self.eos_ids, pad_id=self.pad_id
            )
        else:
            tokens_BT, logprobs_BT = self._library_generate(prompts, sampling, uniforms_BT)
        return [
            _completion(tokens, logprobs, self.eos_ids)
            for tokens, logprobs in zip(tokens_BT.tolist(), logprobs_BT.tolist(), strict=True)
        ]

    def _library_generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, uniforms_BT: Tensor
    ) -> tuple[Tensor, Tensor]:
        device = self.model.device
        longest = max(len(prompt) for prompt in prompts)
        input_ids = torch.tensor([[self.pad_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        attention_mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        sampler = _Sampler(uniforms_BT, sampling)
        with _neutral_generation_config(self.model):
            output = self.model.generate(
                input_ids=input_ids.to(device),
                attention_mask=attention_mask.to(device),
                generation_config=GenerationConfig(
                    max_new_tokens=sampling.max_tokens,
                    do_sample=False,  # the sampler below has chosen already
                    use_cache=True,
                    eos_token_id=self.eos_ids,
                    pad_token_id=self.pad_id,
                ),
                logits_processor=LogitsProcessorList([sampler]),
            )
        tokens_BT: Tensor = output[:, longest:]
        return tokens_BT, torch.stack(sampler.logprobs, dim=1)


def _completion(tokens: list[int], logprobs: list[float], eos_ids: Sequence[int]) -> Completion:
    length = next((t + 1 for t, token in enumerate(tokens) if token in eos_ids), None)
    return Completion(tokens[:length], length is not None, logprobs[:length])


class _Sampler(LogitsProcessor):
    """Chooses the next token itself and leaves `generate` only that one to choose."""

    def __init__(self, uniforms_BT: Tensor, sampling: Sampling) -> None:
        self.uniforms_BT = uniforms_BT
        self.sampling = sampling
        self.logprobs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        tokens_B, logprobs_B = sample_tokens(scores, self.uniforms_BT[:, len(self.logprobs)], self.sampling)
        self.logprobs.append(logprobs_B)
        return torch.full_like(scores, -torch.inf).scatter_(-1, tokens_B.unsqueeze(-1), 0.0)


@contextmanager
def _neutral_generation_config(model: Any) -> Iterator[None]:
    """`generate` fills what a call leaves open from the model's own config (top_k, penalties, bans): hide it."""
    original = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = original
