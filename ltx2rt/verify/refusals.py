"""What the product says about a file that it should refuse or warn of, in the order in which a user would meet it."""

from __future__ import annotations

from pathlib import Path

from ltx2rt.errors import Ltx2rtError
from ltx2rt.graph.settings.weight_files import WeightFiles
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.inspection import inspect
from ltx2rt.types import ParamSpec
from ltx2rt.verify.collected_warnings import collected_warnings
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.formats import companion_of

# Models of the golden folder that files are paired with.
_MODEL_23 = "tiny-ltx2.3-22b-style.safetensors"
_MODEL_25 = "ltx25/tiny-ltx-2.5-distilled-transformer.safetensors"


def refusal(path: Path, goldens: Path, *, is_lora: bool) -> str:
    """Warnings, and the first error: of ``inspect``, of reading every value, of using the file with a model.

    Args:
        path: the file or folder.
        goldens: folder of the models that it is paired with.
        is_lora: it should be a LoRA.
    """
    steps = (_inspect, _use_lora) if is_lora else (_inspect, _read, _pair)
    with collected_warnings() as said:
        for step in steps:
            try:
                said += step(path, goldens)
            except Ltx2rtError as error:
                said.append(str(error))
                break
    return "\n".join(said)


def _inspect(path: Path, goldens: Path) -> list[str]:
    report = inspect(path)
    return [component.error for component in report.components if component.error]


def _read(path: Path, goldens: Path) -> list[str]:
    """Read every weight whose stored form tells its shape."""
    checkpoint = Checkpoint.open(path)
    for component in sorted(checkpoint.components):
        for name in checkpoint.names(component):
            form, encoding = checkpoint.stored_form(component, name)
            if companion_of(name) == name and component != "text_assets":
                for shape in form.shapes(encoding)[:1]:
                    for _ in checkpoint.value_slabs(component, ParamSpec(name, shape)):
                        pass
    return []


def _pair(path: Path, goldens: Path) -> list[str]:
    """Use what the file holds with a model, instead of what the model has itself."""
    held = Checkpoint.open(path).components
    if "text_encoder" in held:
        WeightSet.open(WeightFiles(checkpoint=goldens / _MODEL_25, text_encoder=path))
    elif held & {"video_connector", "audio_connector"}:
        WeightSet.open(WeightFiles(checkpoint=goldens / _MODEL_23, connectors=path))
    return []


def _use_lora(path: Path, goldens: Path) -> list[str]:
    WeightSet.open(WeightFiles(checkpoint=goldens / _MODEL_23, loras=((path, 1.0),)))
    return []
