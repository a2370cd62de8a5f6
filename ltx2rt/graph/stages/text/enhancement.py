"""Rewrites a prompt with the text encoder's language model, in the detail that the video model was trained on."""

from __future__ import annotations

import mlx.core as mx

from ltx2rt.errors import UsageError
from ltx2rt.graph.components import TEXT_ENCODER
from ltx2rt.graph.models.text.token_sampling import SamplingOptions
from ltx2rt.graph.stages.run import Run
from ltx2rt.graph.stages.text.enhancement_instructions import IMAGE_TO_VIDEO, TEXT_TO_VIDEO
from ltx2rt.graph.stages.text.models import text_writer, whole_model, writing_model
from ltx2rt.graph.stages.text.needs import enhancement_options
from ltx2rt.kernels.host import to_numpy
from ltx2rt.memory.need import Need
from ltx2rt.spelling import spelled
from ltx2rt.types import Array
from ltx2rt.weights.chat_template import END_OF_TURN, ChatTemplate
from ltx2rt.weights.checkpoint import Checkpoint
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


def enhance_prompt(run: Run, prompt: str, options: SamplingOptions, *, has_image: bool) -> str:
    """The prompt rewritten by the language model; the prompt itself where the model answers nothing, and in a plan.

    Args:
        run: its files must hold the text encoder.
        prompt: what the user wrote.
        options: how freely the model writes.
        has_image: the clip continues a picture. The picture is not shown to the model: our text encoder has no eyes.

    Raises:
        UsageError: no text encoder, one that cannot write, an empty prompt, or options outside their ranges.
        CheckpointError: the text encoder or its chat template is damaged.

    Source: prompt enhancement of Lightricks/LTX-2 ltx_core/text_encoders/gemma @ v1.2.0, with instructions of our own.
    """
    options.check()
    tokenizer = run.files.tokenizer
    if not run.files.has(TEXT_ENCODER) or (tokenizer is None and not run.planning):
        raise UsageError(f"prompt enhancement needs the text encoder; give {spelled('text_encoder', 'FOLDER')}.")
    if not prompt.strip():
        raise UsageError(f"there is no prompt to enhance; give one with {spelled('prompt')}.")
    encoder, kind = run.files.source(TEXT_ENCODER), text_writer(run.files)
    ids = None if tokenizer is None else _conversation_ids(encoder, tokenizer, prompt, has_image=has_image)
    written = sum(len(message["content"]) for message in messages_for(prompt, has_image=has_image))
    tokens = written // _CHARACTERS_PER_TOKEN if ids is None else len(ids)

    def compute() -> dict[str, mx.array]:
        ways = enhancement_options(encoder, kind, tokens, options.max_new_tokens, run.inputs.dtype)
        need = run.choose(ways, whole_model(run.files))
        if run.planning:
            run.written_tokens = options.max_new_tokens
            return _text_array(prompt)
        assert tokenizer is not None
        assert ids is not None
        return _text_array(_write(run, need, ids, tokenizer, options) or prompt)

    stored = run.remember(STAGE, compute)
    return bytes(to_numpy(stored["text"])).decode("utf-8")


def _text_array(text: str) -> dict[str, mx.array]:
    return {"text": mx.array(list(text.encode("utf-8")), dtype=mx.uint8)}


def _conversation_ids(encoder: Checkpoint, tokenizer: GemmaTokenizer, prompt: str, *, has_image: bool) -> Array:
    folder = encoder.path if encoder.path.is_dir() else encoder.path.parent
    conversation = ChatTemplate.from_directory(folder).render(messages_for(prompt, has_image=has_image))
    return tokenizer.encode_turns(conversation)


def _write(
    run: Run,
    need: Need,
    ids: Array,
    tokenizer: GemmaTokenizer,
    options: SamplingOptions,
) -> str:
    stops = [tokenizer.token_id(token) for token in (END_OF_TURN, "<eos>")]
    with run.stage(need) as stage:
        model = writing_model(run, stage, need.settings["depth"])
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
