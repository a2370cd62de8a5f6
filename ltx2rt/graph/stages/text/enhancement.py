"""Rewrites a prompt with a language model, in the detail that the video model was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from ltx2rt.errors import UsageError
from ltx2rt.graph.models.text.token_sampling import SamplingOptions
from ltx2rt.graph.stages.run import Run
from ltx2rt.graph.stages.text.enhancement_instructions import IMAGE_TO_VIDEO, TEXT_TO_VIDEO
from ltx2rt.graph.stages.text.models import Writer, text_writer, whole_writer, writing_model
from ltx2rt.graph.stages.text.needs import enhancement_options
from ltx2rt.kernels.host import to_numpy
from ltx2rt.memory.need import Need
from ltx2rt.spelling import spelled
from ltx2rt.types import Array
from ltx2rt.weights.chat_template import STOPS, ChatTemplate
from ltx2rt.weights.tokenizer import GemmaTokenizer

STAGE = "prompt enhancement"
# Of the conversation in a plan that knows no tokenizer. English takes more characters for a token.
_CHARACTERS_PER_TOKEN = 4

_REPLACEMENTS = str.maketrans(
    {
        "\u2018": "'",
        "\u2019": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u2014": "-",
        "\u2013": "-",
        "\u00a0": " ",
        "\u2032": "'",
        "\u2212": "-",
    }
)


def enhance_prompt(run: Run, prompt: str, said: Mapping[str, Any], *, has_image: bool) -> str:
    """The prompt rewritten by the language model; the prompt itself where the model answers nothing, and in a plan.

    Args:
        run: its files must hold the language model: the text encoder, or the one that was given for this.
        prompt: what the user wrote.
        said: how freely the model writes, by the names of `SamplingOptions`; the rest is usual for the model.
        has_image: the clip continues a picture. The picture is not shown to the model: our models have no eyes.

    Raises:
        UsageError: no language model, one that cannot write, an empty prompt, or options outside their ranges.
        CheckpointError: the model or its chat template is damaged.

    Source: prompt enhancement of Lightricks/LTX-2 ltx_core/text_encoders/gemma @ v1.2.0, with instructions of our own.
    """
    writer = text_writer(run.files)
    options = writer.kind.usual_sampling.changed(said)
    tokenizer = writer.tokenizer
    if not prompt.strip():
        raise UsageError(f"there is no prompt to enhance; give one with {spelled('prompt')}.")
    ids = None if tokenizer is None else _conversation_ids(writer, tokenizer, prompt, has_image=has_image)
    written = sum(len(message["content"]) for message in messages_for(prompt, has_image=has_image))
    tokens = written // _CHARACTERS_PER_TOKEN if ids is None else len(ids)

    def compute() -> dict[str, mx.array]:
        ways = enhancement_options(writer.source, writer.kind, tokens, options.max_new_tokens, run.inputs.dtype)
        need = run.choose(ways, whole_writer(run.files, writer))
        if run.planning:
            run.written_tokens = options.max_new_tokens
            return _text_array(prompt)
        assert tokenizer is not None
        assert ids is not None
        return _text_array(_write(run, need, writer, ids, tokenizer, options) or prompt)

    stored = run.remember(STAGE, compute)
    return bytes(to_numpy(stored["text"])).decode("utf-8")


def _text_array(text: str) -> dict[str, mx.array]:
    return {"text": mx.array(list(text.encode("utf-8")), dtype=mx.uint8)}


def _folder(writer: Writer) -> Path:
    return writer.source.path if writer.source.path.is_dir() else writer.source.path.parent


def _conversation_ids(writer: Writer, tokenizer: GemmaTokenizer, prompt: str, *, has_image: bool) -> Array:
    template = ChatTemplate.from_directory(_folder(writer), required=writer.kind.needs_template)
    return tokenizer.encode_turns(template.render(messages_for(prompt, has_image=has_image)))


def _write(
    run: Run,
    need: Need,
    writer: Writer,
    ids: Array,
    tokenizer: GemmaTokenizer,
    options: SamplingOptions,
) -> str:
    stops = [tokenizer.token_id(token) for token in STOPS]
    with run.stage(need) as stage:
        model = writing_model(run, stage, writer, need.settings["depth"])
        tokens = model.written(ids, [stop for stop in stops if stop is not None], options)
        return cleaned(tokenizer.decode(list(tokens)))


def messages_for(prompt: str, *, has_image: bool) -> list[dict[str, str]]:
    """The conversation that asks for a rewritten prompt."""
    wish = f"User Raw Input Prompt: {prompt}." if has_image else f"user prompt: {prompt}"
    instructions = IMAGE_TO_VIDEO if has_image else TEXT_TO_VIDEO
    return [{"role": "system", "content": instructions}, {"role": "user", "content": wish}]


def cleaned(answer: str) -> str:
    """Typographic signs as plain ones, and nothing before the first letter; an answer without letters stays whole."""
    plain = answer.translate(_REPLACEMENTS).strip()
    start = next((index for index, character in enumerate(plain) if character.isalpha()), 0)
    return plain[start:]
