"""The steps from a prompt to its contexts; the caller decides in which stage each of them runs."""

from __future__ import annotations

import mlx.core as mx

from ltx2rt.graph.models.text.connector import Connector
from ltx2rt.graph.models.text.feature_extractor import TextFeatures
from ltx2rt.graph.stages.inputs import PromptContext


def connect(features: TextFeatures, video_connector: Connector, audio_connector: Connector) -> PromptContext:
    """Contexts of one prompt, evaluated."""
    video = video_connector(features.video)
    mx.eval(video)  # before the other one begins, whose activations would come on top
    audio = audio_connector(features.audio)
    mx.eval(audio)
    return PromptContext(video, audio)
