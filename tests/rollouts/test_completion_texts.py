"""Completions as text: behind the reasoning tag that a chat template has opened."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sgpo.evaluation.evaluate import EngineSource, build_requests
from sgpo.problems import Problem
from sgpo.rollouts.engine import Completion, Sampling, decode_completions, encode_prompt
from sgpo.rollouts.groups import PromptIds, Rollout, RolloutGroup, judge, sample_groups
from sgpo.verifier import Verifier

OPENS = "{{ messages[0]['content'] }}{{ '<think>\\n' }}"
PROBLEM = Problem(id="a", problem="What is 2 + 2?", answer="4")
CUT_OFF = "the answer is 4. Wait"


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """A token per byte: the tag has several, as in tokenizers that do not know it."""
    vocabulary = {char: number for number, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    bytes_alone = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bytes_alone.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_alone.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bytes_alone)


class _Says:
    """An engine whose every completion is one text, cut off."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.token_ids = tokenizer(CUT_OFF)["input_ids"]

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, seeds: Sequence[int]
    ) -> list[Completion]:
        return [Completion(self.token_ids, finished=False) for _ in prompts]

    def sync_weights(self, model: object) -> None:
        raise AssertionError


@pytest.mark.parametrize(
    ("template", "text", "verdict"), [(OPENS, "<think>\n" + CUT_OFF, "unparsed"), (None, CUT_OFF, "correct")]
)
def test_rollouts(tokenizer: PreTrainedTokenizerFast, template: str | None, text: str, verdict: str) -> None:
    tokenizer.chat_template = template
    prompt = PromptIds(PROBLEM.problem, encode_prompt(tokenizer, PROBLEM.problem))
    group = RolloutGroup(PROBLEM, prompt)
    sample_groups(
        [group], _Says(tokenizer), tokenizer, Sampling(max_tokens=9), num_autonomous=1, num_guided=0, seed=(0,)
    )
    (rollout,) = group.autonomous
    with Verifier(workers=1, timeout=60) as verifier:
        judge([(rollout, PROBLEM)], verifier)
    assert rollout.completion == text
    assert rollout.verdict is not None
    assert rollout.verdict.kind == verdict


def test_a_loaded_model(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = OPENS
    model = EngineSource(_Says(tokenizer), tokenizer, batch_size=2)
    texts: list[str] = []
    requests = build_requests([PROBLEM], samples=3, style="math", seed=0)
    assert model.sample(requests, Sampling(max_tokens=9), lambda answers: texts.extend(a.text for a in answers)) == []
    assert texts == ["<think>\n" + CUT_OFF] * 3


def test_reasoning_tags_that_are_special_tokens_stay(tokenizer: PreTrainedTokenizerFast) -> None:
    """Other special tokens go; without its tags the thinking would be judged as the answer."""
    special = ["<think>", "</think>", "[THINK]", "[/THINK]", "<|channel|>", "<|message|>", "<|im_end|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    for text, kept in (
        ("<think>it is 5</think>\\boxed{4}<|im_end|>", "<think>it is 5</think>\\boxed{4}"),
        ("[THINK]it is 4", "[THINK]it is 4"),
        ("<|channel|>analysis<|message|>it is 5<|channel|>final<|message|>4<|im_end|>",
         "<|channel|>analysis<|message|>it is 5<|channel|>final<|message|>4"),
    ):  # fmt: skip
        completion = Completion(token_ids=tokenizer(text)["input_ids"], finished=True)
        assert decode_completions(tokenizer, [[0]], [completion]) == [kept]


def test_a_rollout_that_was_cut_off_has_no_answer_in_prose() -> None:
    prompt = PromptIds("What is 2 + 2?", [1])
    rollouts = [
        Rollout(prompt.text, prompt.ids, completion_ids=[1], completion=text, logprobs=[0.0], truncated=truncated)
        for text in ("So there are 4 of them in all", "It is \\boxed{4}, as")
        for truncated in (True, False)
    ]
    with Verifier(workers=1) as verifier:
        judge([(rollout, PROBLEM) for rollout in rollouts], verifier)
    assert [rollout.reward for rollout in rollouts] == [0, 1, 1, 1]
