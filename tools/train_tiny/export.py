"""Writes the trained parts in the official layout: ``python -m tools.train_tiny.export [--work FOLDER] [--to FOLDER]``.

Everything is bfloat16. The metadata of every file states licence and origin, and carries a hash of the recipe.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ltx2rt import embedded

from . import config, video_vae

RECIPE = Path(__file__).parent
ORIGIN = "trained by ltx2rt from procedural clips of coloured shapes; not a Lightricks model, holds nothing of one"


def recipe_hash() -> str:
    """SHA-256 over the recipe's modules and the world's vocabulary."""
    digest = hashlib.sha256()
    for path in (*sorted(RECIPE.glob("*.py")), Path(embedded.__file__).parent / "world.py"):
        if path.name not in ("export.py", "evaluate.py", "parity.py"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


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

    tensors = {f"model.diffusion_model.{key}": value for key, value in read("transformer").items()}
    for key, value in read("text").items():
        if "connector" in key:
            tensors[f"model.diffusion_model.{key}"] = value
        elif key.startswith("aggregate_embed"):
            tensors[f"text_embedding_projection.{key}"] = value
    vae = video_vae.assemble(read("video_encoder_finish"), read("video_decoder_finish"))
    tensors |= {f"vae.{key}": value for key, value in vae.state_dict().items()}
    tensors |= {f"audio_vae.{key}": value for key, value in read("audio_vae").items()}
    return tensors | {f"vocoder.{key}": value for key, value in read("vocoder").items()}


def write(tensors: Mapping[str, Tensor], path: Path, notice: Mapping[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.to(torch.bfloat16).contiguous() for key, value in tensors.items()}, path, dict(notice))
    path.chmod(0o644)


def export(work: Path, folder: Path) -> None:
    """Writes every file of the embedded model whose weights exist in ``work``."""
    settings = {
        "transformer": config.TRANSFORMER,
        "vae": config.VIDEO_VAE,
        "audio_vae": config.AUDIO_VAE,
        "vocoder": config.VOCODER,
    }
    write(checkpoint_tensors(work), folder / embedded.CHECKPOINT.name, metadata(settings))
    for name, path, upscaler in (
        ("spatial_upscaler", embedded.SPATIAL_UPSCALER, config.SPATIAL_UPSCALER),
        ("temporal_upscaler", embedded.TEMPORAL_UPSCALER, config.TEMPORAL_UPSCALER),
    ):
        if (work / f"{name}.pt").exists():
            write(torch.load(work / f"{name}.pt", weights_only=True), folder / path.name, metadata(upscaler))
    for name, path, extra in (
        ("distilled_lora", embedded.DISTILLED_LORA, {}),
        ("control_lora", embedded.IC_LORA, {"reference_downscale_factor": "1"}),
    ):
        if (work / f"{name}.pt").exists():
            write(torch.load(work / f"{name}.pt", weights_only=True), folder / path.name, metadata() | extra)
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


def write_curves(work: Path, path: Path) -> None:
    """All curves in one file, every line with the name of its stage; every fourth line of the longer ones."""
    lines = []
    for source in sorted(work.glob("*.jsonl")):
        rows = source.read_text().splitlines()
        kept = rows if len(rows) < 30 else [*rows[:-1:4], rows[-1]]
        lines += [json.dumps({"stage": source.stem, **json.loads(row)}) for row in kept]
    path.write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/train_tiny"))
    parser.add_argument("--to", type=Path, default=embedded.FOLDER)
    arguments = parser.parse_args()
    export(arguments.work, arguments.to)
    write_curves(arguments.work, RECIPE / "curves.jsonl")
    total = 0
    for path in sorted(arguments.to.rglob("*")):
        if path.suffix in (".safetensors", ".json"):
            total += path.stat().st_size
            print(f"{path.stat().st_size / 1e6:8.3f} MB  {path.relative_to(arguments.to)}")
    print(f"{total / 1e6:8.3f} MB in total; recipe {recipe_hash()[:12]}")


if __name__ == "__main__":
    main()
