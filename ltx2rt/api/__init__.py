"""The Python interface: load a pipeline once, call it for clips; encode prompts; upscale clips."""

from __future__ import annotations

from ltx2rt.api.clip import Clip
from ltx2rt.api.loading import load
from ltx2rt.api.opened_component import OpenedComponent
from ltx2rt.api.outputs import OutputOptions
from ltx2rt.api.pipeline import Pipeline
from ltx2rt.api.previews import Preview
from ltx2rt.api.record import Record, read_record
from ltx2rt.api.text_embedding import encode, plan_encode
from ltx2rt.api.upscaling import plan_upscale, upscale
from ltx2rt.graph.pipelines import PIPELINE_NAMES
from ltx2rt.graph.settings.inputs import IcLoraStage, ImageInput, VideoInput
from ltx2rt.graph.settings.settings import DEFAULT_NEGATIVE_PROMPT, Settings
from ltx2rt.graph.settings.weight_files import DTYPES
from ltx2rt.weights.embedding_file import TextEmbedding

__all__ = [
    "DEFAULT_NEGATIVE_PROMPT",
    "DTYPES",
    "PIPELINE_NAMES",
    "Clip",
    "IcLoraStage",
    "ImageInput",
    "OpenedComponent",
    "OutputOptions",
    "Pipeline",
    "Preview",
    "Record",
    "Settings",
    "TextEmbedding",
    "VideoInput",
    "encode",
    "load",
    "plan_encode",
    "plan_upscale",
    "read_record",
    "upscale",
]
