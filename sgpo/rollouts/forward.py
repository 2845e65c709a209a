"""The training forward: log-probabilities and divergences of given completions. The only place that shifts by one.

A causal language model's hidden state at position i predicts token i + 1. `Predictor` runs the model over prompts and
completions and returns the states that predict the completion tokens, packed without padding: `_N` is all completion
tokens of the batch, row after row. With a large vocabulary only a tile of the logits exists at a time, never `N x V`.
Other shape suffixes: `sgpo/objective/__init__.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from sgpo.objective.divergence import Direction, chunked_token_divergence, token_divergence
from sgpo.objective.logprobs import TILE_LOGITS, chunked_token_logprobs


@dataclass(slots=True)
class Predictions:
    """What predicts each completion token: hidden states and the head, or full logits if the head is not linear."""

    head_VH: Tensor | None
    states: Tensor  # (N, H) with a head, (N, V) without

    def of(self, tokens_N: Tensor) -> Predictions:
        """The predictions of some tokens, chosen by a mask."""
        return Predictions(self.head_VH, self.states[tokens_N])

    def logits(self) -> Tensor:
        """The logits, `N x V`."""
        return self.states if self.head_VH is None else self.states @ self.head_VH.T


class Predictor:
    """Runs a causal language model over rows of prompt + completion.

    A hook catches the base model's last hidden states, so that the model is called through its own `forward`, as DDP
    and PEFT need it. One short input shows models whose logits are not exactly what their head makes of these states
    (soft caps, scales), or whose head is more than a matrix; they give full logits. So do models
    with a sharded head (FSDP2, ZeRO-3), which is whole only within `forward`.
    """

    def __init__(self, model: Any, *, pad_id: int, dtype: torch.dtype | None = None) -> None:
        """Look at the model's decoder and head.

        Args:
            model: The policy, not yet wrapped for several processes.
            pad_id: What fills up rows; any token will do.
            dtype: The type of the arithmetic in mixed precision. States leave the model in float32 then, and the head
                is float32: without it their product, the largest matrix product of all, would be one of float32.
        """
        self.pad_id = pad_id
        self.dtype = dtype
        self.decoder = model.get_decoder()
        self.head = model.get_output_embeddings()
        self.keeps_logits = "logits_to_keep" in inspect.signature(_innermost(model).forward).parameters
        self.head_is_linear = self._check_head(model)

    def __call__(
        self, model: Any, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> Predictions:
        """Run the model, and return the predictions of all completion tokens, packed in the order of the rows.

        Args:
            model: The model of `__init__`, or its wrapper (DDP, FSDP2, DeepSpeed).
            prompts: Token ids, at least one each.
            completions: Token ids, one completion per prompt.
        """
        rows = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
        # The last token predicts nothing that is asked for.
        length = max(len(row) for row in rows) - 1
        device = next(model.parameters()).device
        input_ids = torch.tensor([row[:-1] + [self.pad_id] * (length - len(row) + 1) for row in rows], device=device)
        attention_mask = torch.tensor([[1] * (len(row) - 1) + [0] * (length - len(row) + 1) for row in rows])
        attention_mask = attention_mask.to(device)
        # Of the states of all rows, flattened, which one predicts each completion token: that of the token before it.
        index_N = torch.tensor(
            [
                row * length + len(prompt) - 1 + t
                for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
                for t in range(len(completion))
            ],
            dtype=torch.long,
            device=device,
        )
        if not self.head_is_linear or _is_sharded(self.head.weight):
            logits = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
            return Predictions(None, logits.flatten(0, 1)[index_N])
        hidden = self._hidden(model, input_ids=input_ids, attention_mask=attention_mask)
        hidden_NH = hidden.flatten(0, 1)[index_N]
        dtype = self.dtype or hidden_NH.dtype
        return Predictions(self.head.weight.to(dtype), hidden_NH.to(dtype))

    @torch.no_grad()
    def dummy_forward(self, model: Any) -> None:
        """Run a dummy one-token forward, so that this process joins the other processes' collectives."""
        self(model, [[self.pad_id]], [[self.pad_id]])

    def _hidden(self, model: Any, **inputs: Tensor) -> Tensor:
        caught: list[Tensor] = []
        handle = self.decoder.register_forward_hook(lambda _module, _inputs, output: caught.append(output[0]))
        options = {"logits_to_keep": 1} if self.keeps_logits else {}
        try:
            model(**inputs, **options, use_cache=False)
        finally:
            handle.remove()
        return caught[0]

    @torch.no_grad()
    def _check_head(self, model: Any) -> bool:
        """Whether the logits are `hidden @ head.T` now, and will be after any update."""
        if self.head is None or self.decoder is model or getattr(self.head, "bias", None) is not None:
            return False
        if _is_sharded(self.head.weight):
            return False
        # An adapter on the head is zero at first: no comparison would notice it.
        if any(parameter.requires_grad for parameter in self.head.parameters() if parameter is not self.head.weight):
            return False
        caught: list[Tensor] = []
        handles = [
            self.decoder.register_forward_hook(lambda _module, _inputs, output: caught.append(output[0])),
            self.head.register_forward_hook(lambda _module, inputs, output: caught.extend((inputs[0], output))),
        ]
        was_training = model.training
        model.eval()
        input_ids = torch.arange(4, device=self.head.weight.device).unsqueeze(0) % self.head.weight.shape[0]
        try:
            logits = model(input_ids=input_ids, use_cache=False).logits
        finally:
            model.train(was_training)
            for handle in handles:
                handle.remove()
        if len(caught) != 3:
            return False
        # Exactly: a soft cap leaves small logits nearly as they are, until they grow.
        hidden, head_input, head_output = caught
        if not torch.equal(head_input, hidden) or not torch.equal(logits.float(), head_output.float()):
            return False
        return torch.allclose(logits.float(), (hidden @ self.head.weight.T).float(), rtol=1e-2, atol=1e-3)


def token_logprobs(predictions: Predictions, ids_N: Tensor, *, temperature: float) -> Tensor:
    """The log-probability of each completion token (`N`, float32, in nats); logits are divided by the temperature."""
    head_VH = predictions.head_VH
    if head_VH is not None and len(ids_N) * head_VH.shape[0] > TILE_LOGITS:
        return chunked_token_logprobs(predictions.states, head_VH, ids_N, temperature=temperature)
    return (predictions.logits().float() / temperature).log_softmax(-1).gather(-1, ids_N.unsqueeze(-1)).squeeze(-1)


def predicted_divergence(
    unguided: Predictions, guided: Predictions, *, direction: Direction, temperature: float, one_head: bool = True
) -> Tensor:
    """`KL_t` of each completion token between the two branches' predictions (`N`, in nats).

    Args:
        unguided: The branch with a gradient.
        guided: The branch without.
        direction: As of `token_divergence`.
        temperature: What logits are divided by.
        one_head: Both branches are of one model, which is not so where the guided one has other weights.
    """
    if unguided.head_VH is None or guided.head_VH is None:
        return token_divergence(unguided.logits(), guided.logits(), direction=direction, temperature=temperature)
    return chunked_token_divergence(
        unguided.states,
        guided.states,
        unguided.head_VH,
        guided_lm_head_VH=None if one_head else guided.head_VH,
        direction=direction,
        temperature=temperature,
    )


def _is_sharded(weight: Tensor) -> bool:
    """Whether a process holds only a part of the weight: FSDP2's are DTensors, ZeRO-3's bear an id of DeepSpeed's."""
    return isinstance(weight, DTensor) or hasattr(weight, "ds_id")


def _innermost(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
