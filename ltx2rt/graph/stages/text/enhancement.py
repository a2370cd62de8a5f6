"""Rewrites a prompt with the text encoder's language model, in the detail that the video model was trained on."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ltx2rt.errors import UsageError
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.text import gemma3
from ltx2rt.graph.models.text.generation import generate_tokens
from ltx2rt.graph.models.text.token_sampling import SamplingOptions
from ltx2rt.graph.stages.run import Run
from ltx2rt.graph.stages.text.enhancement_instructions import IMAGE_TO_VIDEO, TEXT_TO_VIDEO
from ltx2rt.graph.stages.text.needs import enhancement_options
from ltx2rt.weights.chat_template import END_OF_TURN, ChatTemplate

STAGE = "prompt enhancement"

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


def enhance_prompt(run: Run, prompt: str, options: SamplingOptions, *, has_image: bool) -> str:
    """The prompt rewritten by the language model; the prompt itself where the model answers nothing.

    Args:
        run: its files must hold the text encoder.
        prompt: what the user wrote.
        options: how freely the model writes.
        has_image: the clip continues a picture. The picture is not shown to the model: our text encoder has no eyes.

    Raises:
        UsageError: no text encoder, an empty prompt, or options outside their ranges.
        CheckpointError: the text encoder or its chat template is damaged.

    Source: prompt enhancement of Lightricks/LTX-2 ltx_core/text_encoders/gemma @ v1.2.0, with instructions of our own.
    """
    options.check()
    if run.files.text_encoder is None or run.files.tokenizer is None:
        raise UsageError("prompt enhancement needs the text encoder; give the Gemma folder with --gemma-root.")
    if not prompt.strip():
        raise UsageError("there is no prompt to enhance; give one with --prompt.")
    stored = run.remember(STAGE, lambda: _text_array(_write(run, prompt, options, has_image)))
    return bytes(np.array(stored["text"])).decode("utf-8")


def _text_array(text: str) -> dict[str, mx.array]:
    return {"text": mx.array(np.frombuffer(text.encode("utf-8"), np.uint8))}


def _write(run: Run, prompt: str, options: SamplingOptions, has_image: bool) -> str:
    encoder, tokenizer = run.files.text_encoder, run.files.tokenizer
    assert encoder is not None
    assert tokenizer is not None
    config = gemma3.Gemma3Config.from_dict(encoder.section("text_encoder"))
    folder = encoder.path if encoder.path.is_dir() else encoder.path.parent
    conversation = ChatTemplate.from_directory(folder).render(messages_for(prompt, has_image=has_image))
    stops = [tokenizer.token_id(token) for token in (END_OF_TURN, "<eos>")]
    ids = tokenizer.encode_turns(conversation)
    need = run.ledger.choose(enhancement_options(encoder, config, len(ids), options.max_new_tokens, run.request.dtype))
    with run.stage(need) as stage:
        arrays = stage.hold(encoder.load("text_encoder", gemma3.param_specs(config)))
        model = gemma3.Gemma3(config, Params(arrays), run.request.dtype)
        tokens = generate_tokens(model, ids, [stop for stop in stops if stop is not None], options)
        answer = tokenizer.decode(list(tokens))
    return cleaned(answer) or prompt


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
