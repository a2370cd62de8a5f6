"""Conversations as text: Gemma's turns, templates of a folder, damaged ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.chat_template import ChatTemplate

MESSAGES = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "  Hello "}]
STANDARD = "<bos><start_of_turn>user\nBe short.\n\nHello<end_of_turn>\n<start_of_turn>model\n"
# The same in Jinja, as the published folders write it.
GEMMA = """{{ bos_token }}{%- set first = messages[0]['content'] + '\n\n' -%}
{%- for message in messages[1:] -%}
{{ '<start_of_turn>' + message['role'] + '\n' + (first if loop.first else '') }}{{ message['content'] | trim -}}
{{ '<end_of_turn>\n' }}{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"""


def test_without_a_template_gemmas_turns_are_used(tmp_path: Path) -> None:
    assert ChatTemplate.from_directory(tmp_path).render(MESSAGES) == STANDARD


def test_further_turns_follow() -> None:
    answered = [*MESSAGES, {"role": "assistant", "content": "Hi."}, {"role": "user", "content": "Bye"}]
    assert ChatTemplate(None).render(answered) == (
        "<bos><start_of_turn>user\nBe short.\n\nHello<end_of_turn>\n<start_of_turn>model\nHi.<end_of_turn>\n"
        "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n"
    )


@pytest.mark.parametrize("name", ["chat_template.jinja", "chat_template.json", "tokenizer_config.json"])
def test_the_template_of_the_folder_counts(name: str, tmp_path: Path) -> None:
    text = GEMMA if name.endswith("jinja") else json.dumps({"chat_template": GEMMA})
    (tmp_path / name).write_text(text)
    assert ChatTemplate.from_directory(tmp_path).render(MESSAGES) == STANDARD


def test_a_configuration_without_a_template_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 5}))
    assert ChatTemplate.from_directory(tmp_path).render(MESSAGES) == STANDARD


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("chat_template.jinja", "{% if %}", "cannot be used"),
        ("chat_template.jinja", "{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("chat_template.jinja", "{{ messages.__class__.__mro__ }}", "cannot be used"),
        ("chat_template.json", "[1", "not a JSON object"),
    ],
)
def test_templates_that_cannot_be_used_are_named(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        ChatTemplate.from_directory(tmp_path).render(MESSAGES)
