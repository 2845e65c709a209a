"""Variables and a system prompt become part of the chat template, whatever they say."""

from __future__ import annotations

import copy

import pytest
from transformers import AutoTokenizer

from sgpo.errors import InputError
from sgpo.rollouts.engine import encode_prompt, encode_solution, end_token_ids
from sgpo.rollouts.models import check_tokenizer, load_tokenizer, shape_chat_template
from tests.conftest import tiny_qwen2

TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% if enable_thinking is defined and enable_thinking is false %}<no/>"
    "{% endif %}{{ mood if mood is defined }}{% endif %}"
)


@pytest.fixture
def chat(tokenizer):
    chat = copy.deepcopy(tokenizer)
    chat.chat_template = TEMPLATE
    return chat


def prompt(tokenizer):
    return tokenizer.decode(encode_prompt(tokenizer, "1+1?"))


def test_variables_and_a_system_prompt_are_in_every_prompt_and_saved(chat, tmp_path):
    said = 'Be "brief",\n{{ no }} {%- markup %} \\ \U0001f600 é'
    for _ in range(2):  # a warmed-up model brings the template that it was trained with
        shape_chat_template(chat, template_kwargs={"enable_thinking": False, "mood": "calm"}, system_prompt=said)
    assert prompt(chat) == f"[system]{said}[user]1+1?[assistant]<no/>calm"
    chat.save_pretrained(tmp_path)
    assert prompt(AutoTokenizer.from_pretrained(tmp_path)) == prompt(chat)


def test_a_conversation_with_a_system_prompt_keeps_it(chat):
    shape_chat_template(chat, system_prompt="ours")
    messages = [{"role": "system", "content": "its own"}, {"role": "user", "content": "?"}]
    assert chat.apply_chat_template(messages, tokenize=False) == "[system]its own[user]?"


def test_nothing_asked_changes_nothing(chat, tokenizer):
    shape_chat_template(chat)
    shape_chat_template(tokenizer)
    assert (chat.chat_template, tokenizer.chat_template) == (TEMPLATE, None)


def test_what_would_do_nothing_is_refused(chat, tokenizer):
    with pytest.raises(ValueError, match="reads no variable 'enable_thinkin_'"):
        shape_chat_template(chat, template_kwargs={"enable_thinkin_": False})
    with pytest.raises(ValueError, match="has no chat template"):
        shape_chat_template(tokenizer, system_prompt="ours")


def test_a_template_that_refuses_the_system_role_is_named(chat):
    """As Gemma's does."""
    chat.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        + TEMPLATE
    )
    check_tokenizer(chat)
    with pytest.raises(InputError, match=r"system_prompt='ours', .*: the chat template fails .*: System role not sup"):
        shape_chat_template(chat, system_prompt="ours")


def test_a_template_that_fails_on_every_prompt_is_named(chat):
    chat.chat_template = "{{ raise_exception('no user') }}"
    with pytest.raises(InputError, match="the tokenizer: the chat template fails on a prompt: no user"):
        check_tokenizer(chat)


def test_of_named_templates_the_default_is_used(chat, tmp_path):
    chat.chat_template = {"default": TEMPLATE, "tools": "another"}
    shape_chat_template(chat, template_kwargs={"mood": "calm"}, system_prompt="ours")
    assert prompt(chat) == "[system]ours[user]1+1?[assistant]calm"
    assert chat.chat_template["tools"] == "another"
    chat.save_pretrained(tmp_path)
    assert prompt(AutoTokenizer.from_pretrained(tmp_path)) == prompt(chat)
    chat.chat_template = {"rag": TEMPLATE, "tools": "another"}
    with pytest.raises(InputError, match=r"several chat templates .rag, tools., and none of them is the default"):
        check_tokenizer(chat)
    with pytest.raises(InputError, match="has no chat template to put them into"):
        shape_chat_template(chat, system_prompt="ours")


def test_a_model_without_its_tokenizers_files_is_refused(tmp_path):
    """transformers makes an empty tokenizer for it."""
    tiny_qwen2().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="the tokenizer has no vocabulary and encodes text to nothing"):
        load_tokenizer(tmp_path)


TURN = (
    "{% for m in messages %}<role>{{ m['role'] }}:{{ m['content'] | trim }}<turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<role>assistant:{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (TURN, "<turn>"),  # as Gemma's, and Phi-3's
        (TURN.replace("<turn>", "<eos>"), "<eos>"),
        (TURN.replace("<turn>", ""), "<eos>"),
        (TURN.replace("<turn>", "\n<turn>"), "<turn>"),
        (TURN.replace("<turn>", "(end)"), "<eos>"),
        (TURN.replace("<turn>", "<word>"), "<eos>"),  # a token that was added, and not a special one
        ("{% for m in messages %}{% if m['role'] == 'user' %}<turn>{{ m['content'] }}{% endif %}{% endfor %}", "<eos>"),
        ("{% if messages | length > 1 %}{{ raise_exception('one message') }}{% endif %}" + TURN, "<eos>"),
        (None, "<eos>"),
    ],
)
def test_a_solution_ends_as_the_template_ends_a_turn(chat, template, end):
    chat.add_special_tokens({"additional_special_tokens": ["<turn>", "<role>"]})
    chat.add_tokens(["<word>"])
    chat.chat_template = template
    assert chat.decode(encode_solution(chat, "so 2")) == f"so 2{end}"
    ends = {chat.convert_tokens_to_ids(token) for token in ("<eos>", end)}
    assert end_token_ids(tiny_qwen2(), chat) == sorted(ends)  # what is learnt to end a completion does end one
