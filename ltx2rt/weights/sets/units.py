"""The weights of a folder: which files are read as one, for every kind of folder that people have."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ltx2rt.errors import CheckpointError
from ltx2rt.spelling import spelled
from ltx2rt.weights.detection import OFFICIAL, read_json
from ltx2rt.weights.names.official import DIFFUSION_VAE, IGNORED, locate
from ltx2rt.weights.sets.diffusers_config import official_config
from ltx2rt.weights.weight_file import open_weight_file

Layout = Literal["diffusers", "mlx", "gemma", "comfyui", "flat"]

SUFFIXES = (".safetensors", ".gguf")
# Folders of ComfyUI that hold parts of a model, with their old names; LoRAs are named one by one.
COMFYUI_FOLDERS = (
    "diffusion_models",
    "unet",
    "checkpoints",
    "text_encoders",
    "clip",
    "vae",
    "latent_upscale_models",
    "model_patches",
    "vae_approx",
)
_COMFYUI_MODELS = ("diffusion_models", "unet")
_SHARD = re.compile(r"(.*?)-\d{5}-of-\d{5}$")
# Files of packs: halves of a video VAE, of which there may be several kinds, and latent upscalers.
_KIND_OF_VAE = re.compile(r"vae_(?:encoder|decoder)_(conv|av)\b")
_UPSCALERS = ("spatial_", "temporal_", "upsampler", "latent_")
_FP16 = ".fp16"


@dataclass(frozen=True)
class Unit:
    """Files that are read as one.

    Attributes:
        path: how it is named: the file, or the folder of several.
        files: the weight files.
        metadata: what files beside them state, as a header would.
        hf_config: the Hugging Face configuration of a text encoder beside them.
        apart: the files in groups that have names of their own, as the components of a pack; empty: all have the same.
    """

    path: Path
    files: tuple[Path, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)
    hf_config: Mapping[str, Any] | None = None
    apart: tuple[tuple[Path, ...], ...] = ()

    @property
    def groups(self) -> tuple[tuple[Path, ...], ...]:
        """The files whose names belong together."""
        return self.apart or (self.files,)


def followed(path: Path) -> Path:
    """Where a path leads: of the hub's cache folder ``models--ORG--NAME`` the snapshot that is current.

    Raises:
        CheckpointError: the folder holds no snapshot, or several and none is current.
    """
    snapshots = path / "snapshots"
    if not (path.name.startswith("models--") and snapshots.is_dir()):
        return path
    reference = path / "refs" / "main"
    if reference.is_file():
        current = snapshots / reference.read_text(encoding="utf-8", errors="replace").strip()
        if current.is_dir() and current.parent == snapshots:
            return current
    found = sorted(folder for folder in snapshots.iterdir() if folder.is_dir())
    if len(found) == 1:
        return found[0]
    names = ", ".join(folder.name for folder in found) or "none"
    raise CheckpointError(
        f"{path}: a cache folder of the Hugging Face hub without a current snapshot (there are: {names}); give one "
        "folder of snapshots/, or download the repository again."
    )


def layout_of(folder: Path) -> Layout:
    """The kind of a folder.

    Raises:
        CheckpointError: it holds an adapter.
    """
    if (folder / "model_index.json").is_file():
        return "diffusers"
    configured = folder / "config.json"
    if (folder / "split_model.json").is_file() or (
        configured.is_file() and any(folder.glob("transformer*.safetensors"))
    ):
        return "mlx"
    if (folder / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{folder}: the folder of a PEFT adapter (LoRA), not of a model; give it with {spelled('loras')}, beside a "
            "checkpoint."
        )
    if configured.is_file() and _is_text_encoder(read_json(configured)):
        return "gemma"
    if any((folder / name).is_dir() for name in _COMFYUI_MODELS):
        return "comfyui"
    if not any(_weights(folder)) and (_component_folders(folder) or is_text_encoder_folder(folder / "text_encoder")):
        return "diffusers"
    return "flat"


def unit_of(file: Path) -> Unit:
    """A weight file with what a ``config.json`` beside it states of a diffusers component."""
    return _with_class(file, (file,), file.with_name("config.json"))


def shards_of(file: Path) -> Unit | None:
    """All shards of the model of which a file is one; None: it is none, or the only one here."""
    shard = _SHARD.match(file.stem)
    if shard is None:
        return None
    files = [path for path in _weights(file.parent) if (other := _SHARD.match(path.stem)) and other[1] == shard[1]]
    return _with_class(file.parent, tuple(files), file.with_name("config.json")) if len(files) > 1 else None


def _with_class(path: Path, files: tuple[Path, ...], config: Path) -> Unit:
    stated = read_json(config) if config.is_file() else {}
    return _configured(path, files, stated if "_class_name" in stated else None)


def repository_of(path: Path) -> Path | None:
    """The diffusers repository in which a component's folder, or a file in it, lies; None: it lies in none."""
    folders = (path.absolute().parent, path.absolute().parent.parent)
    return next((folder for folder in folders if (folder / "model_index.json").is_file()), None)


def units_of(folder: Path) -> list[Unit]:
    """What a folder holds, unit by unit; only JSON files are read, and headers where an index contradicts the folder.

    Raises:
        CheckpointError: a folder of another model, or files are missing that it names.
    """
    layout = layout_of(folder)
    if layout == "diffusers":
        return _diffusers(folder)
    if layout == "mlx":
        return _mlx_pack(folder)
    if layout == "gemma":
        return _text_encoders(folder)
    if layout == "comfyui":
        return [unit for name in COMFYUI_FOLDERS for unit in _below(folder / name)]
    return _flat(folder)


def comfyui_root(path: Path) -> Path | None:
    """The ComfyUI models folder in which a file or folder lies; None: it lies in none."""
    for folder in path.absolute().parents:
        if folder.name in COMFYUI_FOLDERS and any((folder.parent / name).is_dir() for name in COMFYUI_FOLDERS):
            root = folder.parent
            if folder.name in _COMFYUI_MODELS or any((root / name).is_dir() for name in _COMFYUI_MODELS):
                return root
    return None


def text_encoder_config(file: Path) -> dict[str, Any] | None:
    """The Hugging Face configuration of a text encoder beside a weight file; None: there is none."""
    config = file.with_name("config.json")
    stated = read_json(config) if config.is_file() else {}
    return stated if _is_text_encoder(stated) else None


def is_text_encoder_folder(folder: Path) -> bool:
    """Whether a folder is that of a Hugging Face text encoder; what cannot be read is none."""
    config = folder / "config.json"
    try:
        return config.is_file() and _is_text_encoder(read_json(config)) and any(_weights(folder))
    except CheckpointError:
        return False


def _is_text_encoder(config: Mapping[str, Any]) -> bool:
    return "text_config" in config or str(config.get("model_type", "")).startswith("gemma")


def _weights(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.is_dir())


def _below(folder: Path) -> list[Unit]:
    """The files of a folder and of those below it; a folder of a Hugging Face text encoder is read as one."""
    files: list[Path] = []
    encoders: list[Unit] = []
    seen: set[Path] = set()
    for here, folders, names in os.walk(folder, followlinks=True):  # models are often kept on another disk
        real = Path(here).resolve()
        if real in seen:  # a link to a folder above it
            folders.clear()
        elif is_text_encoder_folder(Path(here)):
            encoders += _text_encoders(Path(here))
        else:
            files += [Path(here, name) for name in names if Path(name).suffix.lower() in SUFFIXES]
        folders.sort()
        seen.add(real)
    return [*_grouped(sorted(files)), *encoders]


def _text_encoders(folder: Path) -> list[Unit]:
    """The model of a Hugging Face folder; GGUF files are models of their own, and count where there is no other."""
    config = read_json(folder / "config.json")
    shards = [path for path in _weights(folder) if path.suffix.lower() != ".gguf"]
    if not shards and _index(folder) is None:
        return _grouped(_weights(folder)) or [Unit(folder, _one_model(folder))]
    return [Unit(folder, _one_model(folder), hf_config=config)]


def _component_folders(folder: Path) -> list[Path]:
    """The sub-folders of a repository with one folder per component."""
    transformer = folder / "transformer"
    if not (transformer.is_dir() and _weights(transformer)):
        return []
    return sorted(sub for sub in folder.iterdir() if sub.is_dir() and _weights(sub))


def _grouped(files: Iterable[Path]) -> list[Unit]:
    """One unit per file; shards of one model, by their names, are one."""
    groups: dict[Path, list[Path]] = {}
    for file in files:
        shard = _SHARD.match(file.stem)
        groups.setdefault(file.with_name(shard.group(1)) if shard else file, []).append(file)
    return [Unit(found[0] if len(found) == 1 else found[0].parent, tuple(found)) for found in groups.values()]


def _flat(folder: Path) -> list[Unit]:
    config = folder / "config.json"
    if (folder / "model.safetensors.index.json").is_file() or _index(folder) is not None:
        indexed = _one_model(folder)
        stated = read_json(config) if config.is_file() else None
        return [_configured(folder, indexed, stated)]
    found = _weights(folder)
    if not found:
        raise CheckpointError(
            f"{folder}: no .safetensors or .gguf file in this folder; give a weight file or a folder that has some."
        )
    units = _grouped(found)
    if len(units) == 1 and config.is_file():
        return [_configured(units[0].path, units[0].files, read_json(config))]
    return units


def _configured(path: Path, files: tuple[Path, ...], config: Mapping[str, Any] | None) -> Unit:
    """A unit with the ``config.json`` beside it."""
    if config is None:
        return Unit(path, files)
    if "_class_name" in config:
        official = official_config(config)
        return Unit(path, files, {"config": json.dumps(official)} if official else {})
    return Unit(path, files, hf_config=config)


def _index(folder: Path) -> Path | None:
    found = sorted(path for path in folder.glob("*.safetensors.index.json") if _FP16 not in path.name)
    return found[0] if found else None


def _one_model(folder: Path) -> tuple[Path, ...]:
    """The files of a folder that holds one model, of whose variants the unmarked one is taken."""
    index = _index(folder)
    if index is not None:
        return tuple(_indexed(folder, index))
    found = [path for path in _weights(folder) if path.suffix.lower() != ".gguf"]
    if not found:
        raise CheckpointError(f"{folder}: no .safetensors file in this folder; give a weight file or a Gemma folder.")
    found = [path for path in found if _FP16 not in path.name] or found
    if len(found) == 1:
        return tuple(found)
    return tuple(found)


def _indexed(folder: Path, index: Path) -> list[Path]:
    """The files that an index names; where it is stale, those that are there, if no tensor is missing in them."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index}: weight_map must map tensor names to file names; download it again.")
    names = sorted(set(weight_map.values()))
    if any(Path(name).name != name for name in names):
        raise CheckpointError(f"{index}: weight_map names files outside its folder; download it again.")
    missing = {name for name in names if not (folder / name).is_file()}
    if not missing:
        return [folder / name for name in names]
    there = [path for path in _weights(folder) if _FP16 not in path.name and path.suffix.lower() != ".gguf"]
    held = {locate(name) for path in there for name in open_weight_file(path).tensors}
    absent = [
        name
        for name, file in weight_map.items()
        if file in missing and (place := locate(name)) not in held and (place is None or place[0] != IGNORED)
    ]
    if absent or not there:
        listed = ", ".join(sorted(missing)[:10])
        raise CheckpointError(
            f"{folder}: {len(missing)} of {len(names)} weight files are missing ({listed}), and with them "
            f"{len(absent)} tensors, such as {', '.join(map(repr, absent[:3])) or 'all'}; download them."
        )
    return there


def _diffusers(folder: Path) -> list[Unit]:
    index = folder / "model_index.json"
    if index.is_file():
        name = str(read_json(index).get("_class_name", ""))
        if not name.startswith("LTX2"):
            kind = "an LTX-Video pipeline" if name.startswith("LTX") else "another pipeline"
            raise CheckpointError(
                f"{folder}: a diffusers folder of {kind} ({name}); LTX2Pipeline is supported: use the repository of an "
                "LTX-2 model."
            )
    units = []
    for sub in sorted(path for path in folder.iterdir() if path.is_dir() and _weights(path)):
        config = read_json(sub / "config.json") if (sub / "config.json").is_file() else None
        units.append(_configured(sub, _one_model(sub), config))
    if not units:
        raise CheckpointError(f"{folder}: a diffusers folder without weights; download its component folders, too.")
    return units


def _mlx_pack(folder: Path) -> list[Unit]:
    """The pack's transformers, upscalers and kinds of video VAEs one by one, everything else as one."""
    found = _weights(folder)
    _require_pack(folder, {path.name for path in found})
    units: list[Unit] = []
    vaes: dict[str, list[Unit]] = {}
    rest: list[Unit] = []
    for unit in _grouped(found):
        name = unit.files[0].name
        vae = _KIND_OF_VAE.match(name)
        if vae is not None:
            vaes.setdefault(vae[1], []).append(unit)
        elif name.startswith(("transformer", *_UPSCALERS)):
            units.append(Unit(unit.path, unit.files, pack_metadata(unit.files[0])))
        else:
            rest.append(unit)
    for halves in vaes.values():
        units.append(_together(halves[0].files[0], halves))
    if rest:
        units.append(_together(folder if len(rest) > 1 else rest[0].path, rest))
    if not units:
        raise CheckpointError(f"{folder}: a pack without weight files; download it again, or use {OFFICIAL}.")
    return units


def _together(path: Path, units: Sequence[Unit]) -> Unit:
    """Several units of a pack as one, each with names of its own."""
    files = tuple(file for unit in units for file in unit.files)
    return Unit(path, files, pack_metadata(files[0]), apart=tuple(unit.files for unit in units))


def pack_metadata(file: Path) -> dict[str, str]:
    """What the JSON files beside a file of a pack state, as the header of an official file would; nothing elsewhere.

    ``config.json`` of such packs is known to be wrong about the model; its configuration is ``embedded_config.json``,
    which says nothing of upscalers and describes one of several kinds of video VAEs.
    """
    folder = file.parent
    metadata: dict[str, str] = {}
    if not any((folder / name).is_file() for name in ("split_model.json", "embedded_config.json")):
        return metadata
    for name in ("split_model.json", "config.json"):
        if (folder / name).is_file():
            version = read_json(folder / name).get("model_version")
            if isinstance(version, str):
                metadata.setdefault("model_version", version)
    if file.name.startswith(_UPSCALERS):
        return metadata
    if (folder / "embedded_config.json").is_file():
        config, vae = read_json(folder / "embedded_config.json"), _KIND_OF_VAE.match(file.name)
        section = config.get("vae")
        described = "av" if isinstance(section, dict) and section.get("_class_name") == DIFFUSION_VAE else "conv"
        if vae is not None and vae[1] != described:
            config.pop("vae", None)
        metadata["config"] = json.dumps(config)
    if (folder / "text_encoder_config.json").is_file():
        metadata["gemma_config"] = json.dumps(read_json(folder / "text_encoder_config.json"))
    return metadata


def _require_pack(folder: Path, present: set[str]) -> None:
    """Raise CheckpointError for files that ``split_model.json`` names and that are missing."""
    if not (folder / "split_model.json").is_file():
        return
    stated = read_json(folder / "split_model.json")
    components, variants = stated.get("components", []), stated.get("transformer_variants", [])
    if not all(isinstance(names, list) and all(isinstance(n, str) for n in names) for names in (components, variants)):
        raise CheckpointError(f"{folder}/split_model.json: components must be a list of names; download it again.")
    wanted = [name for name in components if name != "transformer" or not variants]
    wanted += [f"transformer-{variant}" for variant in variants]
    missing = [
        f"{name}.safetensors"
        for name in wanted
        if not any(file == f"{name}.safetensors" or file.startswith(f"{name}-0") for file in present)
    ]
    if missing:
        raise CheckpointError(
            f"{folder}: split_model.json names {', '.join(missing[:10])}, which "
            f"{'is' if len(missing) == 1 else 'are'} missing; download the whole pack."
        )
