"""Copies the part of a larger golden corpus that the project carries.

    python tools/select_goldens.py CORPUS tests/goldens

Tensors keep their bytes. Of a file whose cases are many, some are left out whole; of a pipeline run, results that
others imply or repeat are left out, and the file's metadata says so under ``left_out``. ``INDEX.json`` lists what is
there, so that `ltx2rt verify` notices when something gets lost.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

from ltx2rt.weights.safetensors import RawTensor, SafetensorsFile, write_safetensors

WEIGHTS = (
    "tiny-ltx2-19b-style",
    "tiny-ltx2-19b-fp8",
    "tiny-ltx2-19b-distilled-lora",
    "tiny-ltx2-19b-ic-lora",
    "tiny-ltx2-19b-style-lora",
    "tiny-ltx2.3-22b-style",
    "tiny-ltx2.3-22b-distilled-lora",
    "tiny-ltx2.3-22b-ic-lora",
    "tiny-ltx2.3-22b-style-lora",
    "tiny-spatial-upscaler-x2",
)
FOLDERS = ("tiny-gemma3", "pipelines/inputs")

# Per component file the tensors that are kept.
COMPONENTS = {
    "19b_transformer": r"(basic|per_token_timesteps_text_mask|stg)\..*",
    "23_transformer": r"(basic|different_sigmas|modality_isolation|audio_only)\..*",
    "19b_text": r"unicode\..*",
    "23_text": r"unicode\..*",
    "19b_video_vae": r"(encode\.9x64x64|tiled_encode\.temporal)\..*|decode\.2x2x2\.(?!up[56]).*",
    "23_video_vae": r"(encode\.9x64x64|decode\.1x2x3|tiled_encode\.spatial)\..*",
    "19b_audio": r"encode\..*|decode\.5\..*|vocoder\.5\..*",
    "23_audio": r"encode\..*|decode\.5\..*|vocoder\.5\..*",
    "19b_fp8": r".*",
    "19b_lora": r"(distilled_1\.0|ic_0\.8\+distilled_0\.25\+style_1\.0)/.*",
    "23_lora": r"distilled_0\.6\+style_-0\.5/.*",
    "19b_upsamplers": r"in|spatial-x2\..*",
    "23_upsamplers": r"in|spatial-x2\..*",
    "conditioning": r"in\.(base|img|keyframe|reference_(full|half|audio_\w+)|region_mask)|region\..*"
    r"|(combo_\w+|generated_slots_6_11|reference_audio_s1\.0|by_mask_s0\.75|noise_input"
    r"|cleared|cleared_unpatchified)\..*",
    "guiders": r".*",
    "media": r"image_hwc|resize_center_crop\.32x64|resize_reflect_pad\..*|frames.*",
    "positions": r".*",
    "rope": r"freq_grid_f64\.n3\.dim4096|(video_interleaved_f32|audio_split_f64)_.*",
    "sampling": r"sigmas|sample|denoised|noise|(euler|res2s_sde|sde_coeff)\..*|phi_.*|res2s_.*_f64"
    r"|loop\.stage2\.masked\..*",
    "sigmas": r"(distilled|stage2_distilled|ltx2\..*)",
    "timestep_embedding": r".*",
}

# Weight formats: entries of formats/INDEX.json, those of ``bad`` up to so many bytes.
FORMATS = (
    "layers/awq-w4a16.safetensors",
    "layers/int8-convrot-256.safetensors",
    "layers/w4a4.safetensors",
    "layers/w4a8.safetensors",
    "lora/dora-lycoris.safetensors",
    "lora/kohya.safetensors",
    "lora/peft",
)
LARGEST_BAD = 4000
# Their cases need models that are not here.
_BAD_OF_OTHER_MODELS = ("bad/connectors-19b", "bad/gemma4-")

# Of the runs, what is left out: whatever a component case, or another run of the generation, compares as well.
_IMPLIED = r"(noised_latent|upsampler\.(in|out)|vae_decode\.in|eval\.(video|audio)_in)\.\d+"
_DECODED = r"vae_decode\.out_last_frame\.\d+|video_uint8_hwc_(first|last)|audio_decode\.out\.\d+|audio_waveform"
_TRIMMED = rf"{_IMPLIED}|{_DECODED}"
PIPELINES = {
    "19b_distilled_i2v_tiled": None,
    "19b_ti2vid_one_stage": _TRIMMED,
    "14_ltx2_ti2vid_two_stages": r"video_float_fhwc\..*",
    "19b_ti2vid_two_stages_hq": _TRIMMED,
    "19b_ic_lora_skip_stage_2_mask": _TRIMMED,
    "19b_keyframe_interpolation": _TRIMMED,
    "19b_a2vid_two_stage": _TRIMMED,
    "19b_retake": _TRIMMED,
    "23_distilled_i2v_tiled": None,
    "23_ic_lora": _TRIMMED,
    "23_t2a_one_stage": None,
}


def select(corpus: Path, target: Path) -> None:
    """Write the selection into ``target``, in place of what is there but its README."""
    for name in WEIGHTS:
        _copy(corpus, target, f"{name}.safetensors")
    for folder in FOLDERS:
        for path in sorted(path for path in (corpus / folder).iterdir() if path.name != "tokenizer.model"):
            _copy(corpus, target, f"{folder}/{path.name}")
    index = {}
    for name, kept in COMPONENTS.items():
        index[f"components/{name}.safetensors"] = _part(corpus, target, f"components/{name}.safetensors", kept, None)
    for name, left_out in PIPELINES.items():
        index[f"pipelines/{name}.safetensors"] = _part(corpus, target, f"pipelines/{name}.safetensors", None, left_out)
    _formats(corpus / "formats", target / "formats")
    index["formats/INDEX.json"] = {"tensors": {}}
    lines = [f"{json.dumps(name)}: {json.dumps(index[name], separators=(',', ':'))}" for name in sorted(index)]
    (target / "INDEX.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _formats(corpus: Path, target: Path) -> None:
    """Copy the chosen entries of the weight formats with what was saved of them, and a table of contents of these."""
    table = json.loads((corpus / "INDEX.json").read_text())
    bad = [name for name in table if name.startswith("bad/") and _size(corpus / name) <= LARGEST_BAD]
    chosen = {n: table[n] for n in table if n in FORMATS or (n in bad and not n.startswith(_BAD_OF_OTHER_MODELS))}
    for name, entry in chosen.items():
        for file in (name, *(entry[key] for key in ("expected", "hashes", "ids") if entry.get(key))):
            paths = [corpus / file] if (corpus / file).is_file() else (corpus / file).iterdir()
            for path in paths:
                _copy(corpus, target, path.relative_to(corpus).as_posix())
    (target / "INDEX.json").write_text(json.dumps(chosen, indent=0) + "\n")


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size


def _copy(corpus: Path, target: Path, name: str) -> None:
    (target / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(corpus / name, target / name)


def _part(corpus: Path, target: Path, name: str, kept: str | None, left_out: str | None) -> dict[str, Any]:
    """Copy the tensors that are kept; returns the file's entry in the index."""
    source = SafetensorsFile(corpus / name)
    names = [
        key
        for key in source.tensors
        if (kept is None or re.fullmatch(kept, key)) and not (left_out and re.fullmatch(left_out, key))
    ]
    metadata = dict(source.metadata)
    missing = sorted({re.sub(r"\.\d+$", "", key) for key in source.tensors.keys() - set(names)})
    if left_out is not None:
        metadata["left_out"] = json.dumps(missing)
    (target / name).parent.mkdir(parents=True, exist_ok=True)
    if missing:
        tensors = {key: RawTensor(source.tensors[key].dtype, source.raw(key)) for key in names}
        write_safetensors(target / name, tensors, metadata)
    else:
        _copy(corpus, target, name)
    return {"tensors": {key: [source.tensors[key].dtype, list(source.tensors[key].shape)] for key in sorted(names)}}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpus", type=Path, help="folder of the larger corpus")
    parser.add_argument("target", type=Path, help="folder to copy to, such as tests/goldens")
    arguments = parser.parse_args()
    select(arguments.corpus, arguments.target)
