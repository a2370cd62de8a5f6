"""Writes the trained parts in the official layout: ``python -m tools.train_tiny.export [--work FOLDER] [--to FOLDER]``.

Everything is bfloat16, its bytes in planes (`ltx2rt/weights/byte_planes.py`). The metadata of every file states licence
and origin, and carries a hash of the recipe.
With ``--restore`` the other way round: what the work folder lacks is taken from the exported files, so that one stage
can be trained again without the others.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from ltx2rt import embedded
from ltx2rt.weights.byte_planes import in_byte_planes
from ltx2rt.weights.safetensors import SafetensorsFile

from . import config, video_vae
from .recipe import FOLDER, recipe_hash

SINGLE_PARTS = {  # parts with a file of their own
    "spatial_upscaler": embedded.SPATIAL_UPSCALER,
    "temporal_upscaler": embedded.TEMPORAL_UPSCALER,
    "distilled_lora": embedded.DISTILLED_LORA,
    "control_lora": embedded.IC_LORA,
}
ORIGIN = "trained by ltx2rt from procedural clips of coloured shapes; not a Lightricks model, holds nothing of one"


def metadata(settings: Mapping[str, object] | None = None) -> dict[str, str]:
    notice = {
        "license": "Apache-2.0",
        "ltx2rt_origin": ORIGIN,
        "ltx2rt_recipe": "tools/train_tiny",
        "ltx2rt_recipe_sha256": recipe_hash(),
    }
    return notice if settings is None else {"config": json.dumps(settings), **notice}


def checkpoint_tensors(work: Path) -> dict[str, Tensor]:
    """All tensors of the single file under their official names."""

    def read(name: str) -> dict[str, Tensor]:
        return torch.load(work / f"{name}.pt", map_location="cpu", weights_only=True)

    tensors = {f"model.diffusion_model.{key}": value for key, value in read("transformer_guided").items()}
    for key, value in read("text").items():
        if "connector" in key:
            tensors[f"model.diffusion_model.{key}"] = value
        elif key.startswith("aggregate_embed"):
            tensors[f"text_embedding_projection.{key}"] = value
    vae = video_vae.assemble(read("video_encoder_clips"), read("video_decoder_finish"))
    tensors |= {f"vae.{key}": value for key, value in vae.state_dict().items()}
    tensors |= {f"audio_vae.{key}": value for key, value in read("audio_vae").items()}
    return tensors | {f"vocoder.{key}": value for key, value in read("vocoder").items()}


def write(tensors: Mapping[str, Tensor], path: Path, notice: Mapping[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rounded = {key: value.to(torch.bfloat16).contiguous() for key, value in tensors.items()}
    path.write_bytes(in_byte_planes(save(rounded, dict(notice))))


def read_exported(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that `write` made, in float32."""
    file = SafetensorsFile(path)
    return {name: torch.from_numpy(file.numpy(name)) for name in file.tensors}


def export(work: Path, folder: Path) -> None:
    """Writes every file of the embedded model whose weights exist in ``work``."""
    settings = {
        "transformer": config.TRANSFORMER,
        "vae": config.VIDEO_VAE,
        "audio_vae": config.AUDIO_VAE,
        "vocoder": config.VOCODER,
    }
    write(checkpoint_tensors(work), folder / embedded.CHECKPOINT.name, metadata(settings))
    notices = {
        "spatial_upscaler": metadata(config.SPATIAL_UPSCALER),
        "temporal_upscaler": metadata(config.TEMPORAL_UPSCALER),
        "distilled_lora": metadata(),
        "control_lora": metadata() | {"reference_downscale_factor": "1"},
    }
    for name, path in SINGLE_PARTS.items():
        if (work / f"{name}.pt").exists():
            write(torch.load(work / f"{name}.pt", weights_only=True), folder / path.name, notices[name])
    text = folder / embedded.TEXT_ENCODER.name
    encoder = {
        f"language_model.model.{key.removeprefix('encoder.')}": value
        for key, value in torch.load(work / "text.pt", weights_only=True).items()
        if key.startswith("encoder.")
    }
    write(encoder, text / "model.safetensors", metadata())
    vocabulary = encoder["language_model.model.embed_tokens.weight"].shape[0]
    description = {"model_type": "gemma3", "text_config": config.TEXT_ENCODER | {"vocab_size": vocabulary}}
    (text / "config.json").write_text(json.dumps(description, indent=2) + "\n")
    shutil.copyfile(work / "tokenizer.json", text / "tokenizer.json")


def restore(folder: Path, work: Path) -> None:
    """Writes the checkpoints that ``work`` lacks from exported files; their weights are rounded to bfloat16."""
    work.mkdir(parents=True, exist_ok=True)
    tensors = read_exported(folder / embedded.CHECKPOINT.name)

    def part(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    text_folder = folder / embedded.TEXT_ENCODER.name
    transformer = part("model.diffusion_model.")
    text = {key: transformer.pop(key) for key in list(transformer) if "connector" in key}
    text |= part("text_embedding_projection.")
    for key, value in read_exported(text_folder / "model.safetensors").items():
        text[f"encoder.{key.removeprefix('language_model.model.')}"] = value
    parts = {
        "transformer_guided": transformer,
        "text": text,
        "video_encoder_clips": part("vae.encoder."),
        "video_decoder_finish": part("vae.decoder."),
        "audio_vae": part("audio_vae."),
        "vocoder": part("vocoder."),
    }
    for name, path in SINGLE_PARTS.items():
        if (folder / path.name).exists():
            parts[name] = read_exported(folder / path.name)
    for name, state in parts.items():
        if not (work / f"{name}.pt").exists():
            torch.save(state, work / f"{name}.pt")
    if not (work / "tokenizer.json").exists():
        shutil.copyfile(text_folder / "tokenizer.json", work / "tokenizer.json")


def write_curves(work: Path, path: Path) -> None:
    """All curves in one file, every line with the name of its stage; every fourth line of the longer ones.

    Curves of stages that did not run in ``work`` stay.
    """
    stages = {source.stem for source in work.glob("*.jsonl")}
    lines = [line for line in path.read_text().splitlines() if json.loads(line)["stage"] not in stages]
    for source in sorted(work.glob("*.jsonl")):
        rows = source.read_text().splitlines()
        kept = rows if len(rows) < 30 else [*rows[:-1:4], rows[-1]]
        lines += [json.dumps({"stage": source.stem, **json.loads(row)}) for row in kept]
    path.write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/train_tiny"))
    parser.add_argument("--to", type=Path, default=embedded.FOLDER)
    parser.add_argument("--restore", action="store_true", help="from the exported files to the work folder")
    arguments = parser.parse_args()
    if arguments.restore:
        restore(arguments.to, arguments.work)
        return
    export(arguments.work, arguments.to)
    write_curves(arguments.work, FOLDER / "curves.jsonl")
    total = 0
    for path in sorted(arguments.to.rglob("*")):
        if path.suffix in (".safetensors", ".json"):
            total += path.stat().st_size
            print(f"{path.stat().st_size / 1e6:8.3f} MB  {path.relative_to(arguments.to)}")
    print(f"{total / 1e6:8.3f} MB in total; recipe {recipe_hash()[:12]}")


if __name__ == "__main__":
    main()
