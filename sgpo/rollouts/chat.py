"""What a user sets of a chat template becomes part of it: the tokenizer is saved with the model, so that training,
evaluation, and whoever serves the model later see the same prompts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase


def shape_chat_template(
    tokenizer: PreTrainedTokenizerBase,
    *,
    template_kwargs: Mapping[str, Any] | None = None,
    system_prompt: str | None = None,
) -> None:
    """Set variables of a tokenizer's chat template (`enable_thinking` of Qwen3), and a system prompt for conversations
    that have none of their own. Done twice, it is as done once.

    Raises ValueError for a tokenizer without a chat template, and for a variable that its template does not read.
    """
    if not template_kwargs and system_prompt is None:
        return
    name, template = tokenizer.name_or_path or "the tokenizer", tokenizer.chat_template
    if not isinstance(template, str):
        raise ValueError(f"chat_template_kwargs, system_prompt: {name} has no chat template to put them into")
    for key in template_kwargs or {}:
        if not key.isidentifier() or key not in template:
            raise ValueError(f"chat_template_kwargs: the chat template of {name} reads no variable {key!r}")
    head = "".join(f"{{%- set {key} = {_literal(value)} %}}" for key, value in (template_kwargs or {}).items())
    if system_prompt is not None:
        message = f'{{"role": "system", "content": {_literal(system_prompt)}}}'
        head += (
            f'{{%- if messages[0]["role"] != "system" %}}{{%- set messages = [{message}] + messages %}}{{%- endif %}}'
        )
    if not template.startswith(head):
        tokenizer.chat_template = head + template


def _literal(value: Any) -> str:
    """A plain value as Jinja reads it: as JSON, but for `none`."""
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
