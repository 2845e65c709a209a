"""The `hf` engine: the training model itself generates, on a CPU or one GPU.

Models with an ordinary key-value cache go through our own decoding loop, any other through `model.generate`. The loop
does what `generate` does, without its waste: it computes a prompt once however many completions it gets; it writes keys
and values into room made beforehand, which doubles when it is full, instead of copying them at every token; and it
drops rows that have ended.

Sampling draws one uniform number per token, from the seed of its completion, and inverts the cumulative distribution.
So a completion is a function of its seed and its logits, whatever else is in the batch: the same problem gives the same
completion in a batch of 1 and of 192.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from sgpo.errors import DivergedError, InputError
from sgpo.progress import tell_progress
from sgpo.rollouts.engine import Completion, Sampling

# Drop finished rows only once this fraction of the batch has ended: each drop copies the cache of the others.
DROP_FRACTION = 0.125
# The cache has room for this many tokens of a completion at first. Few completions come near a limit of 32,768 tokens;
# room for all of them in advance would be 115 GiB for 64 completions of a model like Qwen2.5-7B.
FIRST_ROOM = 1024

OnToken = Callable[[int, int], None]


class HFEngine:
    """Samples at most `batch_size` completions at a time.

    Raises:
        InputError: the model keeps its state where transformers mixes up the rows of a batch.
    """

    def __init__(self, model: Any, *, pad_id: int, eos_ids: Sequence[int], batch_size: int = 256) -> None:
        if "state" in inspect.signature(_innermost(model).forward).parameters:  # RWKV
            raise InputError(
                f"{type(_innermost(model)).__name__}: generates wrong tokens for all but one row of a batch "
                "(transformers mixes up the rows' states); choose another model"
            )
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
        completions: dict[int, Completion] = {}
        was_training = self.model.training
        self.model.eval()
        try:
            for rows in self._batches(prompts):
                on_token = partial(_tell, len(completions), len(prompts))
                batch = self._generate([prompts[i] for i in rows], sampling, [seeds[i] for i in rows], on_token)
                completions.update(zip(rows, batch, strict=True))
                tell_progress("sampling", len(completions), len(prompts))
        finally:
            self.model.train(was_training)
        return [completions[i] for i in range(len(prompts))]

    def _batches(self, prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Yield the prompts of each batch: of any lengths, or of one length where the model cannot hide padding."""
        # Neighbours of one length waste no padding; the seeds make the order irrelevant to the result.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        one_length = not can_pad(self.model)
        alike = groupby(order, key=lambda i: len(prompts[i]) if one_length else None)
        for group in (list(rows) for _, rows in alike):
            yield from (group[start : start + self.batch_size] for start in range(0, len(group), self.batch_size))

    def _generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int], on_token: OnToken
    ) -> list[Completion]:
        device = self.model.device
        uniforms_BT = uniform_numbers(seeds, sampling.max_tokens).to(device)
        if can_decode(self.model):
            tokens_BT, logprobs_BT = decode(
                self.model, prompts, sampling, uniforms_BT, eos_ids=self.eos_ids, pad_id=self.pad_id, on_token=on_token
            )
        else:
            tokens_BT, logprobs_BT = self._generate_by_library(prompts, sampling, uniforms_BT)
        return [
            _completion(tokens, logprobs, self.eos_ids)
            for tokens, logprobs in zip(tokens_BT.tolist(), logprobs_BT.tolist(), strict=True)
        ]

    def _generate_by_library(
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


def _tell(before: int, total: int, ended: int, tokens: int) -> None:
    tell_progress("sampling", before + ended, total, f"{tokens:,} tokens")


def _completion(tokens: list[int], logprobs: list[float], eos_ids: Sequence[int]) -> Completion:
    """Cut a row behind its first end token."""
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
    """`generate` fills what a call leaves open from the model's own config (top_k, penalties, bans): hide it.

    PEFT writes the config of its wrapper into the model below, so that one comes back too.
    """
    holders = [model, _innermost(model)]
    originals = [holder.generation_config for holder in holders]
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        for holder, original in zip(holders, originals, strict=True):
            holder.generation_config = original


# -- the decoding loop


def can_decode(model: Any) -> bool:
    """Whether the loop knows this model's cache: ordinary keys and values in every layer, positions by argument."""
    return _has_cache(model, {"position_ids", "past_key_values", "logits_to_keep"}, {DynamicLayer})


def can_pad(model: Any) -> bool:
    """Whether a mask hides padding before a prompt: it does from attention to ordinary keys and values, not always from
    a recurrent state, or from an index of the tokens to attend to (DeepSeek-V3.2)."""
    return _has_cache(model, {"attention_mask", "past_key_values"}, {DynamicLayer, DynamicSlidingWindowLayer})


def _has_cache(model: Any, arguments: set[str], kinds: set[type]) -> bool:
    """Whether a model's forward takes these arguments, and all layers of its cache are of these kinds."""
    layers = DynamicCache(config=_innermost(model).config).layers
    takes_all = arguments <= inspect.signature(_innermost(model).forward).parameters.keys()
    return takes_all and bool(layers) and {type(layer) for layer in layers} <= kinds


def _innermost(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@torch.no_grad()
def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    uniforms_BT: Tensor,
    *,
    eos_ids: Sequence[int],
    pad_id: int,
    on_token: OnToken = lambda ended, tokens: None,
) -> tuple[Tensor, Tensor]:
    """Sample one completion per prompt.

    Args:
        model: A causal language model for which `can_decode` holds.
        prompts: Token ids, one row per completion; equal ones are computed once.
        sampling: The options.
        uniforms_BT: A number in [0, 1) for each token, as `uniform_numbers` gives them.
        eos_ids: The tokens that end a completion.
        pad_id: What fills up prompts and completions.
        on_token: Told, after each token, how many completions have ended, and the tokens of the others.

    Returns:
        `tokens_BT` and `logprobs_BT`, which mean nothing after a row's first end token.
    """
    # Prefill: one forward over the distinct prompts, padded on the left so that all of them end together.
    device = uniforms_BT.device
    unique = list(dict.fromkeys(tuple(prompt) for prompt in prompts))
    places = {prompt: place for place, prompt in enumerate(unique)}
    length = max(len(prompt) for prompt in unique)
    input_ids = torch.tensor([[pad_id] * (length - len(p)) + list(p) for p in unique], device=device)
    mask = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in unique], device=device)
    room, limit = (length + tokens for tokens in (min(FIRST_ROOM, sampling.max_tokens), sampling.max_tokens))
    cache = Cache(layers=[_RoomyLayer(room, limit) for _ in DynamicCache(config=model.config).layers])
    logits_BV = _next_logits(model, cache, input_ids, mask, (mask.cumsum(-1) - 1).clamp(min=0))

    # Give every completion its prompt's row of the cache, and the mask room for its own tokens.
    rows_B = torch.tensor([places[tuple(prompt)] for prompt in prompts], device=device)
    cache.batch_select_indices(rows_B)
    logits_BV, mask = logits_BV[rows_B], mask[rows_B]
    mask = torch.cat([mask, mask.new_ones(len(prompts), sampling.max_tokens)], dim=-1)
    positions_B = mask[:, :length].sum(-1)

    tokens_BT = torch.full((len(prompts), sampling.max_tokens), pad_id, device=device)
    logprobs_BT = torch.zeros(tokens_BT.shape, device=device)
    ends = torch.tensor(eos_ids, device=device)
    alive_B = torch.arange(len(prompts), device=device)  # which row of the result each row of the batch is
    ended_B = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    for t in range(sampling.max_tokens):
        next_B, next_logprobs_B = sample_tokens(logits_BV, uniforms_BT[alive_B, t], sampling)
        tokens_BT[alive_B, t], logprobs_BT[alive_B, t] = next_B, next_logprobs_B
        ended_B |= torch.isin(next_B, ends)
        ended = int(ended_B.sum())
        on_token(len(prompts) - len(alive_B) + ended, t + 1)
        if ended == len(ended_B) or t + 1 == sampling.max_tokens:
            break
        # Rows that have ended stay in the batch, and are computed for nothing, until dropping them pays.
        if ended >= max(1, DROP_FRACTION * len(ended_B)):
            staying = (~ended_B).nonzero().squeeze(-1)
            cache.batch_select_indices(staying)
            alive_B, next_B, mask, positions_B = alive_B[staying], next_B[staying], mask[staying], positions_B[staying]
            ended_B = ended_B[staying]
        logits_BV = _next_logits(
            model, cache, next_B.unsqueeze(-1), mask[:, : length + t + 1], (positions_B + t).unsqueeze(-1)
        )
    return tokens_BT, logprobs_BT


def _next_logits(model: Any, cache: Cache, input_ids: Tensor, mask: Tensor, position_ids: Tensor) -> Tensor:
    output = model(
        input_ids=input_ids,
        attention_mask=mask,
        position_ids=position_ids,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits_BV: Tensor = output.logits[:, -1]
    return logits_BV


class _RoomyLayer(DynamicLayer):
    """Keys and values of one layer, with `room` for so many tokens of each row, and at most for `limit` of them.

    `keys` and `values`, what the model reads, are the filled part of their rooms: B x heads x tokens x width.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, room: int, limit: int) -> None:
        super().__init__()
        self.room = room
        self.limit = limit

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self.key_room, self.value_room = (self._roomy(states[:, :, :0]) for states in (key_states, value_states))

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if end > self.room:
            self.room = min(max(end, 2 * self.room), self.limit)
            self.key_room = self._roomy(self.keys)
            self.keys = self.key_room  # so that the old room is free before the values get their new one
            self.value_room = self._roomy(self.values)
        self.key_room[:, :, start:end] = key_states
        self.value_room[:, :, start:end] = value_states
        self.keys, self.values = self.key_room[:, :, :end], self.value_room[:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        end = self.get_seq_length()
        self.key_room = self._roomy(self.keys.index_select(0, indices))
        self.value_room = self._roomy(self.values.index_select(0, indices))
        self.keys, self.values = self.key_room[:, :, :end], self.value_room[:, :, :end]

    def _roomy(self, states: Tensor) -> Tensor:
        """Copy keys or values to the head of new room."""
        rows, heads, tokens, width = states.shape
        roomy = states.new_empty(rows, heads, self.room, width)
        roomy[:, :, :tokens] = states
        return roomy


# -- choosing the next token


def uniform_numbers(seeds: Sequence[int], count: int) -> Tensor:
    """Draw `count` numbers in [0, 1) for each seed: `uniforms_BT`, float64 on the CPU."""
    generator = torch.Generator()
    rows = []
    for seed in seeds:
        generator.manual_seed(seed)
        rows.append(torch.rand(count, generator=generator, dtype=torch.float64))
    return torch.stack(rows) if rows else torch.empty(0, count, dtype=torch.float64)


def sample_tokens(logits_BV: Tensor, uniforms_B: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Choose the next token of each row.

    Greedy at temperature 0, where the log-probability is that of temperature 1. top-p keeps the smallest set of
    likeliest tokens that holds the probability `top_p`.

    Returns:
        `tokens_B` (int64), and `logprobs_B` (float32, in nats) under the temperature-scaled distribution, before the
        top-p cut.

    Raises:
        DivergedError: a logit is NaN.
    """
    logprobs_BV = (logits_BV.float() / (sampling.temperature or 1.0)).log_softmax(-1)
    if logprobs_BV.isnan().any():
        raise DivergedError("the policy's logits are not numbers: training diverged, or the weights are damaged")
    if sampling.temperature == 0:
        tokens_B = logprobs_BV.argmax(-1)
    else:
        probabilities_BV = logprobs_BV.exp()
        if sampling.top_p < 1:
            probabilities_BV = _keep_top_p(probabilities_BV, sampling.top_p)
        cumulative_BV = probabilities_BV.cumsum(-1, dtype=torch.float64)  # in float32 a GPU's sum need not rise
        # Scaling the uniform number by the row's own total keeps rounding from ever choosing past the end, and a token
        # of probability zero is never chosen: `right` skips over equal neighbours.
        thresholds_B1 = (uniforms_B.to(cumulative_BV).unsqueeze(-1) * cumulative_BV[:, -1:]).clamp(
            max=torch.nextafter(cumulative_BV[:, -1:], torch.zeros_like(cumulative_BV[:, -1:]))
        )
        tokens_B = torch.searchsorted(cumulative_BV, thresholds_B1, right=True).squeeze(-1)
    return tokens_B, logprobs_BV.gather(-1, tokens_B.unsqueeze(-1)).squeeze(-1)


def _keep_top_p(probabilities_BV: Tensor, top_p: float) -> Tensor:
    sorted_BV, order_BV = probabilities_BV.sort(dim=-1, descending=True, stable=True)
    before_BV = sorted_BV.cumsum(-1) - sorted_BV
    kept_BV = sorted_BV.where(before_BV < top_p, 0.0)
    return torch.zeros_like(probabilities_BV).scatter(-1, order_BV, kept_BV)
