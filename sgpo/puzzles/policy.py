"""The tiny policy of the embedded default: a tokenizer of words, and a Qwen2 of half a million parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sgpo.puzzles import FAMILIES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

PAD, EOS = "<pad>", "<eos>"
PROMPT_WORDS = ("|", ";", ":")


def vocabulary() -> list[str]:
    """Every word of the compact form. It covers all families, so that a policy can meet another one later."""
    words = [word for family in FAMILIES.values() for word in family.vocabulary]
    return list(dict.fromkeys((*PROMPT_WORDS, *words)))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token per word (the space before it included) and one per byte for any other text.

    It is Qwen2's tokenizer with the words as added tokens: `AutoTokenizer` builds that class for every checkpoint of
    this architecture and would silently replace the rules of another one.
    """
    from tokenizers import AddedToken, pre_tokenizers
    from transformers import Qwen2Tokenizer

    tokens = (PAD, EOS, *sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer = Qwen2Tokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=[],
        pad_token=PAD,
        eos_token=EOS,
        unk_token=None,
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )
    tokenizer.add_tokens([AddedToken(f" {word}", normalized=False) for word in vocabulary()])
    return tokenizer


def build_policy(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> Qwen2ForCausalLM:
    """A Qwen2 with random weights: width 128, 2 layers, 8 heads, float32. The same seed gives the same weights."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=2,
        num_attention_heads=8,  # with 4 some seeds learn to move symbols about far later
        num_key_value_heads=8,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.06,  # three times the usual: a model as narrow as this learns twice as fast
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config)
