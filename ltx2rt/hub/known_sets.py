"""The sets of weight files that `ltx2rt download` knows, and the published files that errors point at: data only.

What was verified, and what not. No entry was compared with the hub itself: this table was written without a network.
- Repositories, paths and byte counts come from published listings and from the scripts and model cards of programs that
  use these files. A byte count stands here only where two such sources agree or one states it with the file's SHA-256.
- ``about`` is a size as published, rounded; where neither is given no size was found.
- Whether a repository is gated was read from several users' reports, not tried.
- Not verified at all: names of the files in dgrauet's packs beyond those that mlx-forge writes; whether the GGUF
  repositories still hold the quantisations named here.
A wrong entry costs an error that names the repository and the file: the hub's own listing, sizes and checksums decide,
and a file that a repository does not have is reported before anything is fetched. `ltx2rt download ORG/NAME:FILE`
fetches what this table does not know.
"""

from __future__ import annotations

from ltx2rt.hub.known_set import KnownSet, Part, Repository

_LTX = "LTX-2 Community License"
_GEMMA = "Gemma Terms of Use"

LTX_2 = Repository("Lightricks/LTX-2", _LTX)
LTX_2_3 = Repository("Lightricks/LTX-2.3", _LTX)
LTX_2_3_FP8 = Repository("Lightricks/LTX-2.3-fp8", _LTX)
LTX_2_3_NVFP4 = Repository("Lightricks/LTX-2.3-nvfp4", _LTX)
LTX_2_5 = Repository("Lightricks/LTX-2.5", _LTX, gated=True)
GEMMA_3 = Repository("google/gemma-3-12b-it-qat-q4_0-unquantized", _GEMMA, gated=True)
GEMMA_3_COMFY = Repository("Comfy-Org/ltx-2", _GEMMA)
GEMMA_3_GGUF = Repository("unsloth/gemma-3-12b-it-qat-GGUF", _GEMMA)
GEMMA_3_MLX = Repository("mlx-community/gemma-3-12b-it-4bit", _GEMMA)
KIJAI_2 = Repository("Kijai/LTXV2_comfy", _LTX)
KIJAI_2_3 = Repository("Kijai/LTX2.3_comfy", _LTX)
GGUF_2 = Repository("unsloth/LTX-2-GGUF", _LTX)
GGUF_2_3 = Repository("unsloth/LTX-2.3-GGUF", _LTX)
GGUF_2_5 = Repository("Abiray/LTX-2.5-Distilled-GGUF", _LTX)
MLX_2_3 = Repository("dgrauet/ltx-2.3-mlx", _LTX)
MLX_2_3_Q8 = Repository("dgrauet/ltx-2.3-mlx-q8", _LTX)
MLX_2_3_Q4 = Repository("dgrauet/ltx-2.3-mlx-q4", _LTX)
MLX_2_5 = Repository("dgrauet/ltx-2.5-mlx", _LTX, gated=True)
MLX_2_5_Q8 = Repository("dgrauet/ltx-2.5-mlx-q8", _LTX, gated=True)
MLX_2_5_Q4 = Repository("dgrauet/ltx-2.5-mlx-q4", _LTX, gated=True)

# A model folder as the hub's own libraries keep it, without pictures and other forms of the same weights.
_FOLDER = ("*.safetensors", "*.json", "tokenizer.*")

# Text encoders.
_GEMMA_3 = Part("text_encoder", GEMMA_3, _FOLDER, about=24.4)
_COMFY_TEXT = "split_files/text_encoders/gemma_3_12B_it"
_GEMMA_3_FP8 = Part("text_encoder", GEMMA_3_COMFY, (f"{_COMFY_TEXT}_fp8_scaled.safetensors",), 13_205_434_827)
_GEMMA_3_FP4 = Part("text_encoder", GEMMA_3_COMFY, (f"{_COMFY_TEXT}_fp4_mixed.safetensors",), 9_447_702_218)
_GEMMA_3_Q4 = Part("text_encoder", GEMMA_3_GGUF, ("gemma-3-12b-it-qat-Q4_K_M.gguf",), about=7.3)
_GEMMA_3_MLX = Part("text_encoder", GEMMA_3_MLX, _FOLDER, about=8.0)

# LTX-2 19B.
_UPSCALER_2 = Part("spatial_upscaler", LTX_2, ("ltx-2-spatial-upscaler-x2-1.0.safetensors",), 995_765_578)
_TIME_2 = Part("temporal_upscaler", LTX_2, ("ltx-2-temporal-upscaler-x2-1.0.safetensors",), about=0.262, optional=True)
_LORA_2 = Part("distilled_lora", LTX_2, ("ltx-2-19b-distilled-lora-384.safetensors",), about=7.67)
_VIDEO_2 = Part("video_vae", KIJAI_2, ("VAE/LTX2_video_vae_bf16.safetensors",), 2_445_008_522)
_AUDIO_2 = Part("audio_vae", KIJAI_2, ("VAE/LTX2_audio_vae_bf16.safetensors",), 217_740_136)
_CONNECTORS_2 = "text_encoders/ltx-2-19b-embeddings_connector_{}_bf16.safetensors"
_CONNECTORS_2_DISTILLED = Part("connectors", KIJAI_2, (_CONNECTORS_2.format("distill"),), 2_862_983_784)
_CONNECTORS_2_DEV = Part("connectors", KIJAI_2, (_CONNECTORS_2.format("dev"),), about=2.86)
_PLAIN_2 = (_UPSCALER_2, _TIME_2)
_DEV_2 = (_UPSCALER_2, _LORA_2, _TIME_2)

# LTX-2.3.
_UPSCALER_2_3 = Part("spatial_upscaler", LTX_2_3, ("ltx-2.3-spatial-upscaler-x2-1.1.safetensors",), 995_743_560)
_TIME_2_3 = Part(
    "temporal_upscaler", LTX_2_3, ("ltx-2.3-temporal-upscaler-x2-1.0.safetensors",), about=0.262, optional=True
)
_LORA_2_3 = Part("distilled_lora", LTX_2_3, ("ltx-2.3-22b-distilled-lora-384-1.1.safetensors",), 7_605_507_256)
_PLAIN_2_3 = (_UPSCALER_2_3, _TIME_2_3)
_DEV_2_3 = (_UPSCALER_2_3, _LORA_2_3, _TIME_2_3)
_PROJECTION_2_3 = Part(
    "text_projection", KIJAI_2_3, ("text_encoders/ltx-2.3_text_projection_bf16.safetensors",), 2_312_149_072
)
_VIDEO_2_3 = Part("video_vae", KIJAI_2_3, ("vae/LTX23_video_vae_bf16.safetensors",), 1_452_258_578)
_AUDIO_2_3 = Part("audio_vae", KIJAI_2_3, ("vae/LTX23_audio_vae_bf16.safetensors",), 364_855_188)
_COMFY_2_3 = (_GEMMA_3_FP8, _PROJECTION_2_3, _VIDEO_2_3, _AUDIO_2_3)


def _gguf_2_3(variant: str) -> tuple[Part, ...]:
    """What goes with a transformer of the same repository; its connectors file holds the text projection."""
    base = f"ltx-2.3-22b-{variant}"
    return (
        Part("text_projection", GGUF_2_3, (f"text_encoders/{base}_embeddings_connectors.safetensors",), about=2.31),
        Part("video_vae", GGUF_2_3, (f"vae/{base}_video_vae.safetensors",), about=1.45),
        Part("audio_vae", GGUF_2_3, (f"vae/{base}_audio_vae.safetensors",), about=0.365),
    )


def _pack_2_3(repository: Repository, variant: str, about: float | None = None) -> tuple[Part, ...]:
    """One folder with a file for each component; its upscaler is named apart."""
    names = ("connector", "vae_decoder", "vae_encoder", "audio_vae", "vocoder")
    files = ("*.json", f"transformer-{variant}.safetensors", *(f"{name}.safetensors" for name in names))
    upscaler = Part("spatial_upscaler", repository, ("spatial_upscaler_x2_v1_1.safetensors",), about=1.02)
    return (Part("checkpoint", repository, files, about=about), _GEMMA_3_MLX, upscaler)


# LTX-2.5: every part is a file of one repository.
_TEXT_2_5 = Part(
    "text_encoder", LTX_2_5, ("text_encoders/gemma4-12b-with-proj-ltx-2.5-bf16.safetensors",), 26_263_858_182
)
# Two revisions of it were seen, with 15,372,969,374 and 15,372,971,786 bytes.
_TEXT_2_5_INT8 = Part(
    "text_encoder", LTX_2_5, ("text_encoders/gemma4-12b-with-proj-ltx-2.5-comfy-int8-convrot.safetensors",), about=15.4
)
_VIDEO_2_5 = Part("video_vae", LTX_2_5, ("vae/ltx-2.5-video-vae-bf16.safetensors",), 1_472_223_346)
_CONV_2_5 = Part(
    "video_vae",
    LTX_2_5,
    ("vae/ltx-2.5-video-vae-conv-bf16.safetensors",),
    1_452_269_922,
    optional=True,
    note="the convolutional decoder, faster",
)
_AUDIO_2_5 = Part("audio_vae", LTX_2_5, ("vae/ltx-2.5-audio-vae-bf16.safetensors",), 364_866_540)
_UPSCALER_2_5 = Part(
    "spatial_upscaler",
    LTX_2_5,
    ("latent_upscale_models/ltx-2.5-latent-spatial-upscaler-x2-bf16-1.0.safetensors",),
    995_778_752,
)
_TIME_2_5 = Part(
    "temporal_upscaler",
    LTX_2_5,
    ("latent_upscale_models/ltx-2.5-latent-temporal-upscaler-x2-bf16-1.0.safetensors",),
    261_944_000,
    optional=True,
)
_DURATION_2_5 = Part("duration_head", LTX_2_5, ("model_patches/ltx-2.5-duration-head-bf16.safetensors",), 3_843_690)
_LORA_2_5 = Part("distilled_lora", LTX_2_5, ("loras/ltx-2.5-22b-distilled-lora-450-bf16.safetensors",), 8_899_889_568)
_REST_2_5 = (_VIDEO_2_5, _AUDIO_2_5, _UPSCALER_2_5, _TIME_2_5, _CONV_2_5, _DURATION_2_5)
_REST_2_5_DEV = (*_REST_2_5[:3], _LORA_2_5, *_REST_2_5[3:])


def _transformer_2_5(name: str, size: int) -> Part:
    return Part("transformer", LTX_2_5, (f"diffusion_models/ltx-2.5-22b-{name}.safetensors",), size)


def _pack_2_5(repository: Repository, variant: str) -> tuple[Part, ...]:
    names = (
        *("connector", "text_encoder", "vae_decoder_conv", "vae_encoder_conv", "audio_vae", "vocoder"),
        "duration_head",
    )
    files = ("*.json", f"transformer-{variant}.safetensors", *(f"{name}.safetensors" for name in names))
    upscaler = Part("spatial_upscaler", repository, ("spatial_upscaler_x2_v1_0.safetensors",), about=1.0)
    return (Part("checkpoint", repository, files), upscaler)


def _sets(name: str, **formats: tuple[Part, ...]) -> tuple[KnownSet, ...]:
    return tuple(KnownSet(name, form.replace("_", "-"), parts) for form, parts in formats.items())


# Of one name the first format is the one that is fetched where none is named.
SETS: tuple[KnownSet, ...] = (
    *_sets(
        "ltx-2-19b-distilled",
        fp8=(
            Part("checkpoint", LTX_2, ("ltx-2-19b-distilled-fp8.safetensors",), about=27.1),
            *(_GEMMA_3_FP8, *_PLAIN_2),
        ),
        bf16=(Part("checkpoint", LTX_2, ("ltx-2-19b-distilled.safetensors",), about=43.3), _GEMMA_3, *_PLAIN_2),
        comfy_bf16=(
            Part(
                "transformer",
                KIJAI_2,
                ("diffusion_models/ltx-2-19b-distilled_transformer_only_bf16.safetensors",),
                37_759_394_560,
            ),
            *(_GEMMA_3_FP8, _CONNECTORS_2_DISTILLED, _VIDEO_2, _AUDIO_2, *_PLAIN_2),
        ),
        gguf_q4=(
            Part("transformer", KIJAI_2, ("diffusion_models/ltx-2-19b-distilled_Q4_K_M.gguf",), about=12.7),
            *(_GEMMA_3_Q4, _CONNECTORS_2_DISTILLED, _VIDEO_2, _AUDIO_2, *_PLAIN_2),
        ),
    ),
    *_sets(
        "ltx-2-19b-dev",
        fp8=(Part("checkpoint", LTX_2, ("ltx-2-19b-dev-fp8.safetensors",), about=27.1), _GEMMA_3_FP8, *_DEV_2),
        bf16=(Part("checkpoint", LTX_2, ("ltx-2-19b-dev.safetensors",), about=43.3), _GEMMA_3, *_DEV_2),
        nvfp4=(Part("checkpoint", LTX_2, ("ltx-2-19b-dev-fp4.safetensors",), about=20.0), _GEMMA_3_FP4, *_DEV_2),
        gguf_q8=(
            Part("transformer", GGUF_2, ("ltx-2-19b-dev-Q8_0.gguf",), about=20.4),
            *(_GEMMA_3_FP8, _CONNECTORS_2_DEV, _VIDEO_2, _AUDIO_2, *_DEV_2),
        ),
        gguf_q6=(
            Part("transformer", GGUF_2, ("ltx-2-19b-dev-Q6_K.gguf",), about=16.0),
            *(_GEMMA_3_FP8, _CONNECTORS_2_DEV, _VIDEO_2, _AUDIO_2, *_DEV_2),
        ),
        gguf_q4=(
            Part("transformer", GGUF_2, ("ltx-2-19b-dev-Q4_K_M.gguf",), about=12.8),
            *(_GEMMA_3_Q4, _CONNECTORS_2_DEV, _VIDEO_2, _AUDIO_2, *_DEV_2),
        ),
    ),
    *_sets(
        "ltx-2.3-distilled",
        fp8=(
            Part("checkpoint", LTX_2_3_FP8, ("ltx-2.3-22b-distilled-fp8.safetensors",), 29_531_884_062),
            *(_GEMMA_3_FP8, *_PLAIN_2_3),
        ),
        bf16=(
            Part("checkpoint", LTX_2_3, ("ltx-2.3-22b-distilled-1.1.safetensors",), 46_149_345_334),
            *(_GEMMA_3, *_PLAIN_2_3),
        ),
        comfy_fp8=(
            Part(
                "transformer",
                KIJAI_2_3,
                ("diffusion_models/ltx-2.3-22b-distilled-1.1_transformer_only_fp8_scaled.safetensors",),
                25_226_571_988,
            ),
            *(*_COMFY_2_3, *_PLAIN_2_3),
        ),
        gguf_q8=(
            Part("transformer", GGUF_2_3, ("distilled-1.1/ltx-2.3-22b-distilled-1.1-Q8_0.gguf",), about=22.8),
            *(_GEMMA_3_FP8, *_gguf_2_3("distilled"), *_PLAIN_2_3),
        ),
        gguf_q4=(
            Part("transformer", GGUF_2_3, ("distilled-1.1/ltx-2.3-22b-distilled-1.1-Q4_K_M.gguf",), about=14.2),
            *(_GEMMA_3_Q4, *_gguf_2_3("distilled"), *_PLAIN_2_3),
        ),
        mlx_bf16=_pack_2_3(MLX_2_3, "distilled", 46.2),
        mlx_q8=_pack_2_3(MLX_2_3_Q8, "distilled", 28.8),
        mlx_q4=_pack_2_3(MLX_2_3_Q4, "distilled"),
    ),
    *_sets(
        "ltx-2.3-dev",
        fp8=(
            Part("checkpoint", LTX_2_3_FP8, ("ltx-2.3-22b-dev-fp8.safetensors",), 29_145_431_166),
            *(_GEMMA_3_FP8, *_DEV_2_3),
        ),
        bf16=(
            Part("checkpoint", LTX_2_3, ("ltx-2.3-22b-dev.safetensors",), 46_149_344_974),
            *(_GEMMA_3, *_DEV_2_3),
        ),
        nvfp4=(
            Part("checkpoint", LTX_2_3_NVFP4, ("ltx-2.3-22b-dev-nvfp4.safetensors",), about=21.7),
            *(_GEMMA_3_FP4, *_DEV_2_3),
        ),
        comfy_fp8=(
            Part(
                "transformer",
                KIJAI_2_3,
                ("diffusion_models/ltx-2.3-22b-dev_transformer_only_fp8_scaled.safetensors",),
                about=23.5,
            ),
            *(*_COMFY_2_3, *_DEV_2_3),
        ),
        gguf_q4=(
            Part("transformer", GGUF_2_3, ("ltx-2.3-22b-dev-Q4_K_M.gguf",)),
            *(_GEMMA_3_Q4, *_gguf_2_3("dev"), *_DEV_2_3),
        ),
    ),
    *_sets(
        "ltx-2.3-dev",
        mlx_bf16=_pack_2_3(MLX_2_3, "dev", 46.2),
        mlx_q8=_pack_2_3(MLX_2_3_Q8, "dev", 28.8),
        mlx_q4=_pack_2_3(MLX_2_3_Q4, "dev"),
    ),
    *_sets(
        "ltx-2.5-distilled",
        int8=(
            _transformer_2_5("distilled-transformer-comfy-int8-convrot", 21_504_034_224),
            *(_TEXT_2_5_INT8, *_REST_2_5),
        ),
        bf16=(_transformer_2_5("distilled-transformer-bf16", 42_018_190_584), _TEXT_2_5, *_REST_2_5),
        nvfp4=(_transformer_2_5("distilled-transformer-nvfp4", 18_721_548_408), _TEXT_2_5_INT8, *_REST_2_5),
        gguf_q8=(
            Part("transformer", GGUF_2_5, ("LTX-2.5-Distilled-Q8_0.gguf",), 23_604_666_816),
            *(_TEXT_2_5_INT8, *_REST_2_5),
        ),
        gguf_q6=(
            Part("transformer", GGUF_2_5, ("LTX-2.5-Distilled-Q6_K.gguf",), 18_624_033_216),
            *(_TEXT_2_5_INT8, *_REST_2_5),
        ),
        gguf_q4=(
            Part("transformer", GGUF_2_5, ("LTX-2.5-Distilled-Q4_K_M.gguf",), about=16.2),
            *(_TEXT_2_5_INT8, *_REST_2_5),
        ),
        mlx_bf16=_pack_2_5(MLX_2_5, "distilled"),
        mlx_q8=_pack_2_5(MLX_2_5_Q8, "distilled"),
        mlx_q4=_pack_2_5(MLX_2_5_Q4, "distilled"),
    ),
    *_sets(
        "ltx-2.5-dev",
        int8=(
            _transformer_2_5("dev-transformer-comfy-int8-convrot", 21_504_034_224),
            *(_TEXT_2_5_INT8, *_REST_2_5_DEV),
        ),
        bf16=(_transformer_2_5("dev-transformer-bf16", 42_018_190_584), _TEXT_2_5, *_REST_2_5_DEV),
    ),
    *_sets(
        "ltx-2.5-dev",
        mlx_bf16=_pack_2_5(MLX_2_5, "dev"),
        mlx_q8=_pack_2_5(MLX_2_5_Q8, "dev"),
        mlx_q4=_pack_2_5(MLX_2_5_Q4, "dev"),
    ),
)


def _lora(
    repository: str, file: str, size: int | None = None, *, about: float | None = None, gated: bool = False
) -> Part:
    home = Repository(f"Lightricks/{repository}", _LTX, gated)
    return Part("loras", home, (f"{file}.safetensors",), size, about=about)


_CAMERA = ("Dolly-In", "Dolly-Out", "Dolly-Left", "Dolly-Right", "Jib-Up", "Jib-Down", "Static")

# Published files that no set has: an error about a missing file of this name says where it is.
OTHERS: tuple[Part, ...] = (
    Part("checkpoint", LTX_2_3, ("ltx-2.3-22b-distilled.safetensors",), 46_149_345_038),
    Part("distilled_lora", LTX_2_3, ("ltx-2.3-22b-distilled-lora-384.safetensors",), 7_605_507_256),
    Part("spatial_upscaler", LTX_2_3, ("ltx-2.3-spatial-upscaler-x2-1.0.safetensors",), about=0.996),
    Part("spatial_upscaler", LTX_2_3, ("ltx-2.3-spatial-upscaler-x1.5-1.0.safetensors",), 1_090_125_794),
    Part("text_encoder", GEMMA_3_COMFY, (f"{_COMFY_TEXT}.safetensors",), 24_379_468_890),
    *(
        _lora(f"LTX-2-19b-IC-LoRA-{name}", f"ltx-2-19b-ic-lora-{name.lower()}")
        for name in ("Canny-Control", "Depth-Control", "Pose-Control")
    ),
    _lora("LTX-2-19b-IC-LoRA-Detailer", "ltx-2-19b-ic-lora-detailer", 2_617_401_920),
    *(
        _lora(f"LTX-2-19b-LoRA-Camera-Control-{name}", f"ltx-2-19b-lora-camera-control-{name.lower()}")
        for name in _CAMERA
    ),
    _lora("LTX-2.3-22b-IC-LoRA-Union-Control", "ltx-2.3-22b-ic-lora-union-control-ref0.5", 654_465_352),
    _lora("LTX-2.3-22b-IC-LoRA-Motion-Track-Control", "ltx-2.3-22b-ic-lora-motion-track-control-ref0.5"),
    _lora("LTX-2.3-22b-IC-LoRA-HDR", "ltx-2.3-22b-ic-lora-hdr-0.9", gated=True),
    _lora("LTX-2.3-22b-IC-LoRA-DubIt", "ltx-2.3-22b-ic-lora-dubit-0.9", 2_466_665_072, gated=True),
    _lora(
        "LTX-2.5-22b-IC-LoRA-Pixel-Spatial-Upscaler",
        "ltx-2.5-22b-ic-lora-pixel-spatial-upscaler-x2-1.0",
        327_322_640,
        gated=True,
    ),
    _lora("LTX-2.5-22b-IC-LoRA-Alpha-Gen", "ltx-2.5-22b-ic-lora-alpha-gen-0.9", about=1.31, gated=True),
)
