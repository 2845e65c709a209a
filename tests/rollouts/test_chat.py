"""Variables and a system prompt become part of the chat template, whatever they say."""

from __future__ import annotations

import copy

import pytest
from transformers import AutoTokenizer

from sgpo.rollouts.engine import encode_prompt
from sgpo.rollouts.models import shape_chat_template

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
