"""The tiny policy of the embedded default: a tokenizer of words, a Qwen2 of half a million parameters, its warm-up.

The warm-up teaches the skills, some of the words, and how to follow a strategy; of the other words it teaches nothing,
so that an autonomous prompt with such a word is answered by luck at first.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sgpo.prompts import autonomous_prompt, guided_prompt
from sgpo.puzzles.base import Family, Puzzle, Words, mix_puzzles, split_evenly
from sgpo.puzzles.families import FAMILIES

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


def warmup_rows(
    families: Sequence[Family],
    count: int,
    *,
    seed: int,
    guided_words: Words = "scrambled",
    reworded: float = 0.0,
    keep: Callable[[Puzzle], bool] = lambda puzzle: True,
) -> list[dict[str, str]]:
    """`count` rows `{"prompt", "completion"}`, shuffled, a third of each of three sorts.

    Autonomous prompts of taught words teach the skills and those words. Autonomous and guided ones in which every
    untaught word has a meaning at random teach to guess and to follow a strategy, and nothing about the words.

    Args:
        families: The families that take part.
        count: The number of rows.
        seed: The same seed gives the same rows.
        guided_words: With "all" the guided rows have the true meanings, and so teach some of them on the side.
        reworded: The fraction of rows in the other wording.
        keep: Which puzzles may occur.
    """
    rng = random.Random(seed)
    sorts: tuple[tuple[Words, bool], ...] = (("taught", False), ("scrambled", False), (guided_words, True))
    rows = []
    for (words, guided), number in zip(sorts, split_evenly(count, len(sorts)), strict=True):
        for puzzle in mix_puzzles(families, number, split="warmup", seed=seed + guided, words=words, keep=keep):
            wording = puzzle.compact
            problem = wording.reworded if rng.random() < reworded else wording.problem
            prompt = (
                guided_prompt(problem, wording, style="compact")
                if guided
                else autonomous_prompt(problem, style="compact")
            )
            rows.append({"prompt": prompt, "completion": wording.solution})
    rng.shuffle(rows)
    return rows
