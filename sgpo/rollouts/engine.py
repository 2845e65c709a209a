"""What an engine is, and how to build one by its name.

An engine turns prompts into completions. Every sampling option is set here, none by the model's own configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from transformers import PreTrainedTokenizerBase

from sgpo.errors import InputError
from sgpo.reasoning import TAG_TOKENS, is_part_of_a_tag, opened_reasoning

if TYPE_CHECKING:
    from sgpo.rollouts.vllm import VLLMOptions

EngineName = Literal["hf", "vllm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Every option of sampling. Temperature 0 is greedy; there is no top-k, no min-p and no repetition penalty.

    Raises:
        InputError: an option is out of its range.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise InputError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if self.temperature < 0:
            raise InputError(f"temperature must not be negative, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must lie in (0, 1], got {self.top_p}")


@dataclass(frozen=True, slots=True)
class Completion:
    """A sampled completion: its tokens, the end token included, and their log-probabilities if the engine gives them.

    `logprobs` are those of the temperature-scaled distribution, before any top-p cut, in nats. `finished` is False for
    a completion cut off at the token limit.
    """

    token_ids: list[int]
    finished: bool
    logprobs: list[float] = field(default_factory=list)


class Engine(Protocol):
    """Generates completions from token ids, and takes new weights of the policy."""

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, seeds: Sequence[int]
    ) -> list[Completion]:
        """Sample one completion per prompt, in order.

        Args:
            prompts: Token ids.
            sampling: The options, the same for all prompts.
            seeds: One per prompt; `seeds[i]` alone decides the randomness of completion i.
        """
        ...

    def sync_weights(self, model: Any) -> None:
        """Use the weights of `model` from now on."""
        ...


def build_engine(
    name: EngineName,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_size: int,
    accelerator: Any,
    vllm: VLLMOptions,
) -> Engine:
    """Build the engine that samples from a policy in training.

    Args:
        name: `hf` (the model itself generates) or `vllm`.
        model: The policy.
        tokenizer: Its tokenizer.
        batch_size: The most completions that are sampled at a time.
        accelerator: The trainer's; `vllm` alone reads it.
        vllm: The options of `vllm`.

    Raises:
        InputError: the engine is not installed, or the model has no end token.
    """
    # Both engines import this module for the Protocol.
    from sgpo.rollouts.hf import HFEngine
    from sgpo.rollouts.vllm import build_vllm_engine

    eos_ids = end_token_ids(model, tokenizer)
    if name == "vllm":
        return build_vllm_engine(model, tokenizer, accelerator, vllm, eos_ids=eos_ids, max_sequences=batch_size)
    return HFEngine(model, pad_id=tokenizer.pad_token_id, eos_ids=eos_ids, batch_size=batch_size)


def end_token_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end a completion: the tokenizer's, the chat template's, and all of the model's generation config,
    in order.

    Raises:
        InputError: there is no such token, so a completion could never end.
    """
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    configured = configured if isinstance(configured, list) else [configured]
    ends = (tokenizer.eos_token_id, end_of_turn(tokenizer), *configured)
    ids = {int(token) for token in ends if token is not None}
    if not ids:
        raise InputError(
            f"{tokenizer.name_or_path or 'the tokenizer'}: no eos token in the tokenizer or the model's "
            "generation_config; a completion could never end. Set tokenizer.eos_token and save the tokenizer"
        )
    return sorted(ids)


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token that the chat template writes after an assistant's message, None where there is none.

    It need not be the tokenizer's eos token: Gemma ends a turn with `<end_of_turn>`, Phi-3 with `<|end|>`.
    """
    if not tokenizer.chat_template:
        return None
    said = "7@@7"
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": said}]
    try:
        _, found, after = str(tokenizer.apply_chat_template(messages, tokenize=False)).rpartition(said)
    except Exception:  # a template is a program: it raises what it likes
        return None
    ids = tokenizer(after.lstrip(), add_special_tokens=False)["input_ids"] if found else []
    token = tokenizer.added_tokens_decoder.get(ids[0]) if ids else None
    return int(ids[0]) if token is not None and token.special else None


def encode_solution(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """A solution's token ids as a completion that was sampled would have them, with the token that ends it."""
    end = end_of_turn(tokenizer)
    return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id if end is None else end]


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """A prompt's token ids: through the chat template where the tokenizer has one, else as plain text."""
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": text}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    else:
        ids = tokenizer(text)["input_ids"]
        # Some tokenizers end every text with eos; a prompt must stay open.
        if ids and ids[-1] == tokenizer.eos_token_id:
            ids = ids[:-1]
    return list(ids)


def decode_completions(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]], completions: Sequence[Completion]
) -> list[str]:
    """The completions as text, without special tokens; a reasoning tag stays even where it is one.

    A chat template may end a prompt with an open reasoning tag (`<think>`); the text of its completion then begins with
    that tag, so that it reads, and is judged, like that of a model which writes the tag itself.
    """
    if not completions:
        return []  # a batch of nothing would decode to one empty text
    left_out = _special_ids(tokenizer)
    texts = tokenizer.batch_decode(
        [[token for token in completion.token_ids if token not in left_out] for completion in completions],
        skip_special_tokens=False,
    )
    ends = tokenizer.batch_decode([list(prompt[-TAG_TOKENS:]) for prompt in prompts])
    return [opened_reasoning(end) + text for end, text in zip(ends, texts, strict=True)]


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The special tokens that are no part of a reasoning tag."""
    special = {token: str(text) for token, text in tokenizer.added_tokens_decoder.items() if text.special}
    special |= dict(zip(tokenizer.all_special_ids, map(str, tokenizer.all_special_tokens), strict=False))
    return {token for token, text in special.items() if not is_part_of_a_tag(text)}
