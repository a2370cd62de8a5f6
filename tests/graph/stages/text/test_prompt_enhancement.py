"""Prompt enhancement: the conversation, the cleaning of the answer, and a run of the embedded text encoder."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from ltx2rt import embedded
from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.guidance import GuiderParams
from ltx2rt.graph.models.text.token_sampling import SamplingOptions
from ltx2rt.graph.stages.model_files import ModelFiles
from ltx2rt.graph.stages.request import Request
from ltx2rt.graph.stages.run import Run
from ltx2rt.graph.stages.text.enhancement import cleaned, enhance_prompt, messages_for
from ltx2rt.graph.stages.text.enhancement_instructions import IMAGE_TO_VIDEO, TEXT_TO_VIDEO

REQUEST = Request("a dog", "", 0, 64, 64, 9, Fraction(24), 1, GuiderParams(), GuiderParams())
SHORT = SamplingOptions(max_new_tokens=8)


@pytest.fixture(scope="module")
def files() -> ModelFiles:
    return ModelFiles.open(embedded.CHECKPOINT, embedded.TEXT_ENCODER, embedded.SPATIAL_UPSCALER)


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


def test_the_embedded_model_writes_the_same_text_for_the_same_seed(files: ModelFiles) -> None:
    texts = [
        enhance_prompt(Run(files, REQUEST), "a dog", replace(SHORT, seed=seed), has_image=False) for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]
    assert all(text.strip() for text in texts)


def test_what_cannot_work_is_refused(files: ModelFiles) -> None:
    with pytest.raises(UsageError, match="needs the text encoder"):
        enhance_prompt(Run(replace(files, text_encoder=None), REQUEST), "a dog", SHORT, has_image=False)
    with pytest.raises(UsageError, match="no prompt to enhance"):
        enhance_prompt(Run(files, REQUEST), " ", SHORT, has_image=False)
    with pytest.raises(UsageError, match="top_p"):
        enhance_prompt(Run(files, REQUEST), "a dog", replace(SHORT, top_p=2), has_image=False)
