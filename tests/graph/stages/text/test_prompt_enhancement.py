"""Prompt enhancement: the conversation, the cleaning of the answer, and a run of the embedded text encoder."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import pytest

from ltx2rt import embedded
from ltx2rt.errors import UsageError
from ltx2rt.graph.components import TEXT_ENCODER
from ltx2rt.graph.settings.settings import Settings
from ltx2rt.graph.settings.weight_files import WeightFiles
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.graph.stages.run import Run
from ltx2rt.graph.stages.text.enhancement import cleaned, enhance_prompt, messages_for
from ltx2rt.graph.stages.text.enhancement_instructions import IMAGE_TO_VIDEO, TEXT_TO_VIDEO
from ltx2rt.graph.stages.text.needs import enhancement_options
from ltx2rt.graph.stages.weight_set import WeightSet, sources_of
from ltx2rt.memory.ledger import Ledger

INPUTS = GenerationInputs.without_clip(Settings(prompt="a dog"))
SHORT = {"max_new_tokens": 8}


@pytest.fixture(scope="module")
def files() -> WeightSet:
    return WeightSet.open(WeightFiles(checkpoint=embedded.CHECKPOINT, text_encoder=embedded.TEXT_ENCODER))


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("A dog runs.", "A dog runs."),
        ("  **A dog** runs.\n", "A dog** runs."),
        ("1. \u201cIt\u2019s\u201d \u2013 late\u00a0now", "It's\" - late now"),
        ("\u00e9t\u00e9 6\u2032", "\u00e9t\u00e9 6'"),
        ("123 !", "123 !"),
        ("", ""),
    ],
)
def test_answers_are_cleaned(answer: str, wanted: str) -> None:
    assert cleaned(answer) == wanted


def test_labels_and_instructions_follow_the_kind_of_clip() -> None:
    assert messages_for("a dog", has_image=False) == [
        {"role": "system", "content": TEXT_TO_VIDEO},
        {"role": "user", "content": "user prompt: a dog"},
    ]
    assert messages_for("a dog", has_image=True) == [
        {"role": "system", "content": IMAGE_TO_VIDEO},
        {"role": "user", "content": "User Raw Input Prompt: a dog."},
    ]


def test_the_embedded_model_writes_the_same_text_for_the_same_seed(files: WeightSet) -> None:
    texts = [enhance_prompt(Run(files, INPUTS), "a dog", SHORT | {"seed": seed}, has_image=False) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert all(text.strip() for text in texts)


def test_what_cannot_work_is_refused(files: WeightSet) -> None:
    with pytest.raises(UsageError, match="needs a language model; give text_encoder=FOLDER or prompt_enhancer=FOLDER"):
        enhance_prompt(
            Run(replace(files, sources=sources_of(files.checkpoint)), INPUTS), "a dog", SHORT, has_image=False
        )
    with pytest.raises(UsageError, match="no prompt to enhance"):
        enhance_prompt(Run(files, INPUTS), " ", SHORT, has_image=False)
    with pytest.raises(UsageError, match="no 'heat'; its options are temperature, top_k"):
        enhance_prompt(Run(files, INPUTS), "a dog", {"heat": 1}, has_image=False)
    with pytest.raises(UsageError, match="top_p"):
        enhance_prompt(Run(files, INPUTS), "a dog", {"top_p": 2}, has_image=False)


@pytest.mark.parametrize(
    ("depth", "way"), [(2, "streamed, read ahead"), pytest.param(1, "streamed, not read ahead", marks=pytest.mark.slow)]
)
def test_layers_are_streamed_where_they_do_not_fit(files: WeightSet, depth: int, way: str) -> None:
    """The same text, from a run whose budget has no room for all layers."""
    wide = Run(files, INPUTS, ledger=Ledger(budget=10**9, base=0))
    text = enhance_prompt(wide, "a dog", SHORT, has_image=False)
    (resident,) = wide.ledger.needs
    assert resident.settings["depth"] == 0
    encoder, config = files.source(TEXT_ENCODER), files.config(TEXT_ENCODER)
    tokens = 1  # what it needs besides weights is the same in every way of running
    options = list(enhancement_options(encoder, config, tokens, SHORT["max_new_tokens"], INPUTS.dtype))
    wanted = next(option for option in options if option.settings["depth"] == depth)
    besides = resident.total - resident.resident
    narrow = Run(files, INPUTS, ledger=Ledger(budget=ceil((besides + wanted.resident) * 1.02) + 1, base=0))
    narrow.ledger.admit = lambda need: None  # type: ignore[method-assign]  # this process takes more than the budget
    assert enhance_prompt(narrow, "a dog", SHORT, has_image=False) == text
    (need,) = narrow.ledger.needs
    assert need.settings["depth"] == depth
    assert need.choice["layers"].startswith(way)
    (report,) = narrow.stages.reports
    assert report.weight_bytes <= need.resident < resident.resident
    assert 0 < report.streamed_bytes <= need.streamed + need.slots  # what was read ahead at the end
    (wide_report,) = wide.stages.reports
    assert report.peak_bytes < wide_report.peak_bytes
