"""A decoding loop for causal language models with a plain key-value cache: what `generate` does, without its waste.

Three things make it faster: a prompt is computed once however many completions it gets; keys and values are written
into room made beforehand, which doubles when it is full, instead of being copied at every token; rows that have ended
leave the batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from sgpo.rollouts.engine import Sampling
from sgpo.rollouts.sampling import sample_tokens

# Leave the batch when so large a part of its rows has ended: each departure copies the cache of those that stay.
DEPARTING_SHARE = 0.125
# Room for so many tokens of a completion at first. Few completions come near a limit of 32,768 tokens, and room for all
# of them in advance would be 115 GiB for 64 completions of a model like Qwen2.5-7B.
FIRST_ROOM = 1024


def can_decode(model: Any) -> bool:
    """Whether the loop knows this model's cache: ordinary keys and values in every layer, positions by argument."""
    innermost = model.get_base_model() if hasattr(model, "get_base_model") else model
    parameters = inspect.signature(innermost.forward).parameters
    if not {"position_ids", "past_key_values", "logits_to_keep"} <= parameters.keys():
        return False
    layers = DynamicCache(config=innermost.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


@torch.no_grad()
def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    uniforms_BT: Tensor,
    *,
    eos_ids: Sequence[int],
    pad_id: int,
) -> tuple[Tensor, Tensor]:
    """One completion per prompt: `tokens_BT` and `logprobs_BT`, which mean nothing after a row's first end token."""
    device = uniforms_BT.device
    unique = list(dict.fromkeys(tuple(prompt) for prompt in prompts))
    places = {prompt: place for place, prompt in enumerate(unique)}
    length = max(len(prompt) for prompt in unique)
    input_ids = torch.tensor([[pad_id] * (length - len(p)) + list(p) for p in unique], device=device)
    mask = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in unique], device=device)
    room, limit = (length + tokens for tokens in (min(FIRST_ROOM, sampling.max_tokens), sampling.max_tokens))
    cache = Cache(layers=[_RoomyLayer(room, limit) for _ in DynamicCache(config=model.config).layers])
    logits_BV = _next_logits(model, cache, input_ids, mask, (mask.cumsum(-1) - 1).clamp(min=0))

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
        if ended == len(ended_B) or t + 1 == sampling.max_tokens:
            break
        if ended >= max(1, DEPARTING_SHARE * len(ended_B)):
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
    """Keys and values of one layer, with `room` for so many tokens of each row, and for `limit` of them at the end.

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
        """Keys or values at the head of new room."""
        rows, heads, tokens, width = states.shape
        roomy = states.new_empty(rows, heads, self.room, width)
        roomy[:, :, :tokens] = states
        return roomy
