"""Prompts of LTX-2.5 rewritten by another Gemma: given beside the text encoder, planned, streamed, and refused."""

from __future__ import annotations

import json
from math import ceil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from ltx25_pack import LTX, TEXT, tensors_of, write_pack

from ltx2rt import api, embedded
from ltx2rt.errors import CheckpointError, UsageError
from ltx2rt.graph.models.text import gemma
from ltx2rt.graph.models.text.gemma4 import Gemma4Config
from ltx2rt.graph.settings.settings import Settings
from ltx2rt.graph.settings.weight_files import WeightFiles
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.graph.stages.run import Run
from ltx2rt.graph.stages.text.enhancement import enhance_prompt
from ltx2rt.graph.stages.text.models import text_writer
from ltx2rt.graph.stages.text.needs import enhancement_options
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.memory.ledger import Ledger
from ltx2rt.weights.safetensors import write_safetensors

INPUTS = GenerationInputs.without_clip(Settings(prompt="a dog"))
SHORT = {"max_new_tokens": 6}
WRITER: dict[str, Any] = TEXT | {
    "model_type": "gemma4_text",
    "attention_k_eq_v": False,
    "num_hidden_layers": 6,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 1100,
    "num_kv_shared_layers": 3,
    "use_double_wide_mlp": True,
    "final_logit_softcapping": 30.0,
}


TEMPLATE = "{{ bos_token }}{% for m in messages %}<|turn>{{ m.role }} {{ m.content }}<turn|>{% endfor %}"


def write_writer(folder: Path, **changes: Any) -> Path:
    """The folder of a small Gemma 4 that writes: as E2B-it, with inputs of every layer and shared keys."""
    folder.mkdir()
    config = {"model_type": "gemma4", "text_config": WRITER, **changes}
    specs = gemma.param_specs(Gemma4Config.from_dict(config))
    write_safetensors(folder / "model.safetensors", tensors_of(specs, "model.language_model.", 9), {})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_bytes((embedded.TEXT_ENCODER / "tokenizer.json").read_bytes())
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pack")
    return write_pack(folder) | {"prompt_enhancer": write_writer(folder / "gemma-4-E2B-it")}


@pytest.fixture(scope="module")
def files(pack: dict[str, Path]) -> WeightSet:
    return WeightSet.open(WeightFiles(**pack))


def test_it_writes_the_likeliest_words(files: WeightSet) -> None:
    texts = {enhance_prompt(Run(files, INPUTS), "a dog", SHORT | {"seed": seed}, has_image=False) for seed in (1, 2)}
    assert len(texts) == 1
    warm = [
        enhance_prompt(Run(files, INPUTS), "a dog", SHORT | {"seed": seed, "temperature": 2.0}, has_image=False)
        for seed in (1, 1, 2)
    ]
    assert warm[0] == warm[1] != warm[2]


@pytest.mark.parametrize(
    ("depth", "way"), [(2, "streamed, read ahead"), pytest.param(1, "streamed, not read ahead", marks=pytest.mark.slow)]
)
def test_layers_are_streamed_where_they_do_not_fit(files: WeightSet, depth: int, way: str) -> None:
    wide = Run(files, INPUTS, ledger=Ledger(budget=10**9, base=0))
    text = enhance_prompt(wide, "a dog", SHORT, has_image=False)
    (resident,) = wide.ledger.needs
    assert resident.settings["depth"] == 0
    writer = text_writer(files)
    options = list(enhancement_options(writer.source, writer.kind, 1, SHORT["max_new_tokens"], INPUTS.dtype))
    wanted = next(option for option in options if option.settings["depth"] == depth)
    besides = resident.total - resident.resident
    narrow = Run(files, INPUTS, ledger=Ledger(budget=ceil((besides + wanted.resident) * 1.02) + 1, base=0))
    narrow.ledger.admit = lambda need: None  # type: ignore[method-assign]  # this process takes more than the budget
    assert enhance_prompt(narrow, "a dog", SHORT, has_image=False) == text
    (need,) = narrow.ledger.needs
    assert need.choice["layers"].startswith(way)
    (report,) = narrow.stages.reports
    assert report.weight_bytes <= need.resident < resident.resident
    # What is looked up for the layers is never held.
    (looked_up,) = writer.kind.looked_up_specs()
    held = sum(mx.array(spec.shape).prod().item() * 2 for spec in writer.held_specs)
    (wide_report,) = wide.stages.reports
    assert wide_report.weight_bytes == pytest.approx(held, rel=0.01)
    assert looked_up.shape == (1100, 48)


def test_a_pipeline_plans_it_and_rewrites_with_it(pack: dict[str, Path]) -> None:
    pipeline = api.load("distilled", **pack)
    small = {"height": 64, "width": 64, "num_frames": 9, "enhance_prompt": True, "enhance_max_tokens": 6}
    plan, _ = pipeline.plan("a dog", **small)
    assert [stage.need.name for stage in plan.stages][:2] == ["prompt enhancement", "text encoder"]
    clip = pipeline("a dog", latents_only=True, **small)
    assert clip.report[0].name == "prompt enhancement"
    assert clip.record.result["enhanced_prompt"] != "a dog"
    assert any(path.endswith("gemma-4-E2B-it") for path in clip.record.weights)
    assert clip.record.files["prompt_enhancer"].endswith("gemma-4-E2B-it")
    embedding = api.encode(
        "a dog",
        **{name: pack[name] for name in ("transformer", "text_encoder", "prompt_enhancer")},
        enhancement={"max_new_tokens": 6},
    )
    assert embedding.prompt == clip.record.result["enhanced_prompt"]


def test_without_it_nothing_of_this_generation_can_rewrite(pack: dict[str, Path]) -> None:
    pipeline = api.load("distilled", **{name: path for name, path in pack.items() if name != "prompt_enhancer"})
    with pytest.raises(
        UsageError, match=r"only encodes prompts and cannot rewrite them; give another Gemma with prompt_"
    ):
        pipeline.record_for("a dog", enhance_prompt=True)


def test_gemma_3_will_do(pack: dict[str, Path]) -> None:
    files = WeightSet.open(WeightFiles(**{**pack, "prompt_enhancer": embedded.TEXT_ENCODER}))
    assert enhance_prompt(Run(files, INPUTS), "a dog", SHORT, has_image=False)


def test_what_is_no_writer_is_refused(pack: dict[str, Path]) -> None:
    others = {
        "text_encoder": f"a Gemma 4 that was made to write, such as gemma-4-E2B-it, and this is '{LTX}'",
        "video_vae": "no language model: it holds video_vae",
    }
    for name, message in others.items():
        with pytest.raises(CheckpointError, match=message):
            api.load("distilled", **{**pack, "prompt_enhancer": pack[name]})


def test_a_folder_without_template(pack: dict[str, Path], tmp_path: Path) -> None:
    folder = write_writer(tmp_path / "writer")
    (folder / "chat_template.jinja").unlink()
    files = WeightSet.open(WeightFiles(**{**pack, "prompt_enhancer": folder}))
    with pytest.raises(CheckpointError, match=r"there is no chat_template\.jinja, which says how this model wants"):
        enhance_prompt(Run(files, INPUTS), "a dog", SHORT, has_image=False)
