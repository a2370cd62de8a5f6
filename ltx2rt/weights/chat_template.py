"""How a text encoder's language model wants a conversation written: the template in its folder, or Gemma's turns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
import jinja2.sandbox

from ltx2rt.errors import CheckpointError

BOS = "<bos>"
END_OF_TURN = "<end_of_turn>"
# What ends an answer: turns of Gemma 3 and of Gemma 4, and the end of a text.
STOPS = (END_OF_TURN, "<turn|>", "<eos>")


class ChatTemplate:
    """Turns messages into the text that the model continues.

    Args:
        source: a Jinja template as Hugging Face folders have it; None: Gemma 3's standard turns.
        origin: names the template in errors.
    """

    def __init__(self, source: str | None, origin: str = "") -> None:
        self._origin = origin
        self._template: jinja2.Template | None = None
        if source is not None:
            # A template comes with a download: it may only format text.
            environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
            environment.globals["raise_exception"] = self._refuse
            try:
                self._template = environment.from_string(source)
            except jinja2.TemplateError as error:
                raise self._failure(error) from error

    @classmethod
    def from_directory(cls, directory: Path, *, required: bool = False) -> ChatTemplate:
        """The template of a model folder: ``chat_template.jinja``, ``chat_template.json`` or in
        ``tokenizer_config.json``; without any of them Gemma 3's standard turns.

        Args:
            directory: of the model.
            required: these turns will not do.

        Raises:
            CheckpointError: the template is damaged, or there is none, but must be.
        """
        jinja = directory / "chat_template.jinja"
        if jinja.is_file():
            return cls(jinja.read_text(encoding="utf-8"), str(jinja))
        for name in ("chat_template.json", "tokenizer_config.json"):
            path = directory / name
            if not path.is_file():
                continue
            try:
                source = json.loads(path.read_text(encoding="utf-8")).get("chat_template")
            except (ValueError, AttributeError) as error:
                raise CheckpointError(f"{path}: not a JSON object ({error}); download it again.") from error
            if isinstance(source, str):
                return cls(source, str(path))
        if required:
            raise CheckpointError(
                f"{directory}: there is no chat_template.jinja, which says how this model wants to be asked; download "
                "the whole folder again."
            )
        return cls(None)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The conversation up to where the model answers, beginning with BOS.

        Args:
            messages: each with ``role`` (system, user or assistant) and ``content``.

        Raises:
            CheckpointError: the template cannot write these messages.
        """
        if self._template is None:
            return _standard_turns(messages)
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=True,
                bos_token=BOS,
                eos_token="<eos>",
            )
        except jinja2.TemplateError as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> CheckpointError:
        return CheckpointError(f"{self._origin}: the chat template cannot be used ({error}); download it again.")

    @staticmethod
    def _refuse(message: str) -> None:
        raise jinja2.TemplateError(message)


def _standard_turns(messages: Sequence[Mapping[str, str]]) -> str:
    """Gemma 3 has no system turn: its text stands before that of the first user turn."""
    system = "".join(f"{m['content']}\n\n" for m in messages if m["role"] == "system")
    text = BOS
    for message in messages:
        if message["role"] == "system":
            continue
        role = "model" if message["role"] == "assistant" else "user"
        text += f"<start_of_turn>{role}\n{system}{message['content'].strip()}{END_OF_TURN}\n"
        system = ""
    return text + "<start_of_turn>model\n"
