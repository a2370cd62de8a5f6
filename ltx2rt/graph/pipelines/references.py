"""Reference videos of IC-LoRAs: at which size and rate they are read, and the conditions that they become."""

from __future__ import annotations

import logging

from ltx2rt.errors import UsageError
from ltx2rt.graph.components import VIDEO_VAE
from ltx2rt.graph.diffusion.attention_masks import mask_video_to_tokens
from ltx2rt.graph.diffusion.conditioning import (
    AppendReferenceVideo,
    WithAttentionStrength,
    reference_frame_indices,
)
from ltx2rt.graph.diffusion.latent_geometry import VideoLatentShape
from ltx2rt.graph.diffusion.windows import reference_prefix, require_reference
from ltx2rt.graph.models.video_vae.tiling import Tiling
from ltx2rt.graph.stages.denoise.states import VideoItem
from ltx2rt.graph.stages.encode.stage import encode_pixels
from ltx2rt.graph.stages.inputs import FrameStream, GenerationInputs, ReferenceVideo
from ltx2rt.graph.stages.run import Run
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.graph.stages.windows import window_prefix
from ltx2rt.spelling import spelled

log = logging.getLogger(__name__)


def check_references(inputs: GenerationInputs, files: WeightSet, *, smallest: int) -> None:
    """Whether the references fit the grid of the VAE at every size at which they are read.

    Args:
        inputs, files: the size of the clip, and the LoRAs, which state how much smaller the references are.
        smallest: how many times smaller than the clip the smallest stage with references is.

    Raises:
        UsageError: they do not; the message names the multiple.
    """
    downscale, _ = reference_factors(inputs, files)
    stated = inputs.settings.reference_downscale_factor or any(lora.stated_factor("spatial") for lora, _ in files.loras)
    if inputs.media.references and not stated:
        log.warning(
            "%s: states no reference_downscale_factor; 1 is assumed, references of the full size (%s says otherwise)",
            ", ".join(str(lora.path) for lora, _ in files.loras),
            spelled("reference_downscale_factor", "N"),
        )
    multiple = smallest * files.config(VIDEO_VAE).spatial_factor * downscale
    if inputs.height % multiple or inputs.width % multiple:
        raise UsageError(
            f"this IC-LoRA takes references at 1/{downscale} of the size of each stage: height and width must be "
            f"multiples of {multiple}, got {inputs.height}x{inputs.width}."
        )


def check_windows(inputs: GenerationInputs, files: WeightSet) -> None:
    """Raise UsageError where a window would have nothing of a reference besides what the window before has seen."""
    if len(inputs.windows) == 1:
        return
    vae, (_, temporal_scale) = files.config(VIDEO_VAE), reference_factors(inputs, files)
    for window in inputs.windows:
        of_window = inputs.of_window(window)
        for reference in of_window.media.references:
            frames = reference_clip(of_window, files, inputs.height, inputs.width, reference).shape[0]
            prefix = reference_prefix(window.carry, temporal_scale, vae.temporal_factor)
            require_reference(prefix, vae.latent_frames(frames) if frames else 0)


def reference_factors(inputs: GenerationInputs, files: WeightSet) -> tuple[int, int]:
    """(spatial downscale, temporal scale) of the references: as given, or as the LoRAs' metadata say, which must agree.

    Raises:
        UsageError: they do not.
    """
    given = inputs.settings.reference_downscale_factor
    spatial = _stated(files, "spatial") if given is None else given
    return spatial, _stated(files, "temporal")


def _stated(files: WeightSet, axis: str) -> int:
    """What the LoRAs state; 1 where none states anything."""
    values = {lora.stated_factor(axis) or 1 for lora, _ in files.loras} - {1}
    if len(values) > 1:
        raise UsageError(
            f"the LoRAs state different {axis} factors of the references, {sorted(values)}; use one of them at a time."
        )
    return values.pop() if values else 1


def reference_clip(
    inputs: GenerationInputs, files: WeightSet, height: int, width: int, reference: ReferenceVideo
) -> FrameStream:
    """The frames of a reference video that are encoded for a stage of ``height`` x ``width`` pixels."""
    vae, (downscale, temporal_scale) = files.config(VIDEO_VAE), reference_factors(inputs, files)
    frames = reference.frames(height // downscale, width // downscale, range(inputs.num_frames))
    count = frames.shape[0]
    if count == 0:
        return frames
    chosen = range(count) if temporal_scale == 1 else reference_frame_indices(count, temporal_scale)
    return frames.selected(chosen[: vae.pixel_frames(vae.latent_frames(len(chosen)))])


def reference_items(run: Run, name: str, height: int, width: int, tiling: Tiling | None = None) -> list[VideoItem]:
    """The reference videos as conditions of a stage.

    Of a window of a clip, what it has from the window before is encoded and then left out.

    Args:
        run: of the clip or of a window; its media hold the videos and where the clip attends to them.
        name: of the stage that encodes them.
        height, width: in pixels, of the stage that they condition.
        tiling: of the encoder; None: each is encoded in one piece.
    """
    inputs, files = run.inputs, run.files
    downscale, temporal_scale = reference_factors(inputs, files)
    clips = [reference_clip(inputs, files, height, width, reference) for reference in inputs.media.references]
    reading = max((reference.reading_bytes for reference in inputs.media.references), default=0)
    latents = encode_pixels(run, name, clips, reading, tiling)
    items: list[VideoItem] = []
    for reference, latent in zip(inputs.media.references, latents, strict=True):
        prefix = window_prefix(run, temporal_scale, latent.shape[1])
        item = AppendReferenceVideo(latent, downscale, temporal_scale, reference.strength, prefix)
        mask = inputs.media.attention_mask
        if mask is None or (mask.weights is None and mask.strength == 1.0):
            items.append(item)
        elif mask.weights is None:
            items.append(WithAttentionStrength(item, mask.strength))
        else:
            _, f, h, w, _ = latent.shape
            # Every stage reads the mask at half of the final size.
            weights = mask.weights(inputs.height // 2, inputs.width // 2, range(inputs.num_frames))[None]
            tokens = mask_video_to_tokens(weights, VideoLatentShape(f, h, w)) * mask.strength
            items.append(WithAttentionStrength(item, tokens[:, prefix * h * w :]))
    return items
