"""The text path with official tensor names (Gemma 3 encoder, aggregation, connectors), and its training.

It learns to say, in the mean of its context rows, what a caption names. The transformer then finds every attribute of
the clip in the simplest place that cross-attention can look at.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from ltx2rt.embedded.world import BACKGROUNDS, MOTIONS, SHAPES

from . import config, world
from .attention import Attention, FeedForward, Rotation, modulated, rms, rotation
from .device import mixed_precision
from .muon import Average, Muon, trapezoid

CONTEXT_ROWS = 1024
MAX_POSITION = 4096


class Weight(nn.Module):
    """A bare zero-centred norm weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return modulated(x, 1 + self.weight)


class GemmaAttention(nn.Module):
    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        width, head = settings["hidden_size"], settings["head_dim"]
        queries, keys = settings["num_attention_heads"] * head, settings["num_key_value_heads"] * head
        self._head = head
        self.q_proj = nn.Linear(width, queries, bias=False)
        self.k_proj = nn.Linear(width, keys, bias=False)
        self.v_proj = nn.Linear(width, keys, bias=False)
        self.o_proj = nn.Linear(queries, width, bias=False)
        self.q_norm, self.k_norm = Weight(head), Weight(head)

    def forward(self, x: Tensor, turn: Rotation) -> Tensor:
        query, key, value = (
            layer(x).unflatten(-1, (-1, self._head)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = self._turned(self.q_norm(query), turn), self._turned(self.k_norm(key), turn)
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        scores = (query * self._head**-0.5) @ key.transpose(-1, -2)
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        attended = scores.masked_fill(hidden, -math.inf).softmax(-1).to(value.dtype) @ value
        return self.o_proj(attended.transpose(1, 2).flatten(2))

    def _turned(self, x: Tensor, turn: Rotation) -> Tensor:
        first, second = x.chunk(2, -1)
        cos, sin = (part.to(x.dtype) for part in turn)
        return x * cos + torch.cat([-second, first], -1) * sin


class GemmaMlp(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))


class GemmaLayer(nn.Module):
    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        width = settings["hidden_size"]
        self.self_attn = GemmaAttention(settings)
        self.mlp = GemmaMlp(width, settings["intermediate_size"])
        self.input_layernorm, self.post_attention_layernorm = Weight(width), Weight(width)
        self.pre_feedforward_layernorm, self.post_feedforward_layernorm = Weight(width), Weight(width)

    def forward(self, x: Tensor, turn: Rotation) -> Tensor:
        x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), turn))
        return x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))


class Gemma(nn.Module):
    def __init__(self, vocabulary: int, settings: dict[str, Any] = config.TEXT_ENCODER) -> None:
        super().__init__()
        self._settings = settings
        width = settings["hidden_size"]
        self.embed_tokens = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embed_tokens.weight, std=0.08)
        self.layers = nn.ModuleList(GemmaLayer(settings) for _ in range(settings["num_hidden_layers"]))
        self.norm = Weight(width)

    def forward(self, ids: Tensor) -> list[Tensor]:
        """(B, T) ids, padded on the right, to the states: embedding, layers but the last, normed last."""
        settings = self._settings
        local = self._rotation(ids.shape[1], settings["rope_local_base_freq"], 1.0)
        wide = self._rotation(ids.shape[1], settings["rope_theta"], settings["rope_scaling"]["factor"])
        hidden = self.embed_tokens(ids) * settings["hidden_size"] ** 0.5
        states = [hidden]
        for index, layer in enumerate(self.layers):
            is_global = (index + 1) % settings["sliding_window_pattern"] == 0
            hidden = layer(hidden, wide if is_global else local)
            states.append(hidden)
        states[-1] = self.norm(hidden)
        return states

    def _rotation(self, tokens: int, theta: float, factor: float) -> Rotation:
        head = self._settings["head_dim"]
        inverse = theta ** (-torch.arange(0, head, 2).float() / head) / factor
        angles = torch.arange(tokens).float()[:, None] * inverse
        return torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)


def features(states: Sequence[Tensor], counts: Tensor) -> Tensor:
    """V1 features (B, T, D * states): every layer scaled by its range over the real tokens; padding is 0."""
    x = torch.stack([state.float() for state in states], -1)
    real = (torch.arange(x.shape[1]) < counts[:, None])[:, :, None, None]
    mean = (x * real).sum((1, 2)) / (counts[:, None] * x.shape[2] + 1e-6)
    low = x.masked_fill(~real, math.inf).amin((1, 2))
    high = x.masked_fill(~real, -math.inf).amax((1, 2))
    x = 8 * (x - mean[:, None, None]) / (high - low + 1e-6)[:, None, None]
    return (x * real).flatten(2)


class ConnectorBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn1 = Attention(width, width, width, heads)
        self.ff = FeedForward(width)


class Connector(nn.Module):
    def __init__(self, width: int, heads: int, layers: int, registers: int) -> None:
        super().__init__()
        self._heads = heads
        self.learnable_registers = nn.Parameter(0.1 * torch.randn(registers, width))
        self.transformer_1d_blocks = nn.ModuleList(ConnectorBlock(width, heads) for _ in range(layers))

    def forward(self, rows: Tensor, counts: Tensor, positions: Tensor, bias: Tensor | None) -> Tensor:
        """Context of rows of features (B, S, W); rows from ``counts`` on become the registers of their positions."""
        registers = self.learnable_registers[positions % self.learnable_registers.shape[0]]
        is_token = torch.arange(rows.shape[1]) < counts[:, None]
        hidden = torch.where(is_token[..., None], rows, registers)
        turn = rotation(positions[..., None] / MAX_POSITION, rows.shape[-1], self._heads)
        for block in self.transformer_1d_blocks:
            hidden = hidden + block.attn1(rms(hidden), query_rotation=turn, bias=bias)
            hidden = hidden + block.ff(rms(hidden))
        return rms(hidden)


@dataclass(frozen=True)
class Context:
    """Context rows of both streams.

    Attributes:
        video, audio: (B, S, W).
        bias: (B, 1, 1, S) logarithm of how many of the 1024 rows a row stands for; None if there are all of them.
    """

    video: Tensor
    audio: Tensor
    bias: Tensor | None


class TextPath(nn.Module):
    """Prompt tokens to the context of both streams. State dict: encoder, projection and connectors."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        settings = config.TRANSFORMER
        width = settings["connector_num_attention_heads"] * settings["connector_attention_head_dim"]
        states = config.TEXT_ENCODER["num_hidden_layers"] + 1
        shape = (
            width,
            settings["connector_num_attention_heads"],
            settings["connector_num_layers"],
            settings["connector_num_learnable_registers"],
        )
        self.encoder = Gemma(vocabulary)
        self.aggregate_embed = nn.Linear(config.TEXT_ENCODER["hidden_size"] * states, width, bias=False)
        self.video_embeddings_connector, self.audio_embeddings_connector = Connector(*shape), Connector(*shape)

    def forward(self, ids: Tensor, counts: Tensor, registers: int = 0, seed: Tensor | None = None) -> Context:
        """Contexts of padded prompts.

        Args:
            registers: 0 for all 1024 rows; otherwise so many random register rows stand for all of them.
            seed: (registers,) their positions, for repeatable runs.
        """
        tokens = self.aggregate_embed(features(self.encoder(ids), counts))
        longest = ids.shape[1]
        if not registers:
            rows = F.pad(tokens, (0, 0, 0, CONTEXT_ROWS - longest))
            positions, bias = torch.arange(CONTEXT_ROWS).expand(len(ids), -1), None
        else:
            rows = F.pad(tokens, (0, 0, 0, registers))
            drawn = longest + torch.randperm(CONTEXT_ROWS - longest)[:registers] if seed is None else seed
            drawn = torch.cat([drawn[torch.arange(longest) % registers], drawn])
            is_token = torch.arange(longest + registers) < counts[:, None]
            positions = torch.where(is_token, torch.arange(longest + registers), drawn)
            stands_for = (CONTEXT_ROWS - counts).float() / (longest + registers - counts).float()
            bias = torch.where(is_token, 0.0, stands_for.log()[:, None])[:, None, None]
        return Context(
            self.video_embeddings_connector(rows, counts, positions, bias),
            self.audio_embeddings_connector(rows, counts, positions, bias),
            bias,
        )


class Prompts:
    """Token ids of prompts."""

    def __init__(self, path: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(path))
        self.vocabulary = max(self._tokenizer.get_vocab().values()) + 1

    def __call__(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(B, T) ids padded on the right, and the number of real ones."""
        rows = [self._tokenizer.encode(prompt.strip()).ids[:CONTEXT_ROWS] for prompt in prompts]
        counts = torch.tensor([len(row) for row in rows])
        ids = torch.zeros(len(rows), int(counts.max()), dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        return ids, counts


# --- training ---------------------------------------------------------------------------------------------------------

ATTRIBUTES = {
    "color": world.COLOR_NAMES,
    "shape": world.SHAPE_NAMES,
    "motion": world.MOTION_NAMES,
    "background": world.COLOR_NAMES,
    "size": world.SIZE_NAMES,
    "speed": world.SPEED_NAMES,
    "second_color": world.COLOR_NAMES,
    "second_shape": world.SHAPE_NAMES,
    "second_motion": world.MOTION_NAMES,
}
# Words of prompts that name nothing of the world: ordinary ones, and those of usual negative prompts.
OTHER_PROMPT = """
    low quality, blurry, noisy, flickering, distorted faces and hands, unnatural motion, frozen picture, text overlays,
    watermarks, muffled or crackling sound, washed-out colours, wrong exposure, worst, jittery, artifacts, cat dog man
    woman walks in the street at night rain forest house car river sings speaks city people looks camera slow old young
    beautiful grass mountain table window light music loud quiet happy running water bird flies over sea
"""
OTHER_WORDS = OTHER_PROMPT.split()


def labels(clip: world.Clip, text: str) -> dict[str, int]:
    """Class of every attribute; what the caption leaves out is one past the last class."""
    lower = text.lower()
    first = clip.first
    values = {
        "color": first.color,
        "shape": first.shape,
        "motion": first.motion if any(phrase in lower for phrase in MOTIONS[first.motion]) else None,
        "background": clip.background if any(word in lower for word in BACKGROUNDS) else None,
        "size": first.size_name,
        "speed": first.speed_name if first.motion != "still" else "normal",
        "second_color": None,
        "second_shape": None,
        "second_motion": None,
    }
    if len(clip.things) == 2:
        second = clip.things[1]
        values |= {"second_color": second.color, "second_shape": second.shape, "second_motion": second.motion}
    return {
        name: ATTRIBUTES[name].index(value) if value is not None else len(ATTRIBUTES[name])
        for name, value in values.items()
    }


def other_prompt(rng: random.Random) -> str:
    """A prompt that names nothing of the world; often empty."""
    if rng.random() < 0.4:
        return ""
    start = rng.randrange(len(OTHER_WORDS)) if rng.random() < 0.5 else 0
    words = OTHER_WORDS[start : start + rng.randint(2, 30)]
    if rng.random() < 0.5:
        words = rng.choices(OTHER_WORDS, k=rng.randint(1, 16))
    return " ".join(words)


def sample_captions(rng: random.Random, count: int) -> tuple[list[str], dict[str, Tensor]]:
    texts: list[str] = []
    rows: list[dict[str, int]] = []
    for _ in range(count):
        if rng.random() < 0.08:
            texts.append(other_prompt(rng))
            rows.append({name: len(names) for name, names in ATTRIBUTES.items()})
            continue
        clip = world.sample_clip(rng, two=0.12)
        text = world.caption(rng, clip)
        if any(shape_name in text for shape in SHAPES.values() for shape_name in shape.names):
            texts.append(text)
            rows.append(labels(clip, text))
    return texts, {name: torch.tensor([row[name] for row in rows]) for name in ATTRIBUTES}


def train(
    steps: int, seed: int, prompts: Prompts, report: Callable[..., None], save: Callable[[nn.Module], None]
) -> TextPath:
    torch.manual_seed(seed)
    rng = random.Random(seed)
    path = TextPath(prompts.vocabulary)
    width = path.aggregate_embed.out_features
    heads = nn.ModuleDict(
        {
            f"{stream}_{name}": nn.Linear(width, len(names) + 1)
            for stream in ("video", "audio")
            for name, names in ATTRIBUTES.items()
        }
    )
    average = Average(path, 0.99)
    matrices = [p for n, p in path.named_parameters() if p.dim() == 2 and "embed_tokens" not in n and "regist" not in n]
    known = {id(p) for p in matrices}
    others = [p for p in (*path.parameters(), *heads.parameters()) if id(p) not in known]
    optimiser = Muon(matrices, others, matrix_rate=0.01, other_rate=3e-3)
    for step in range(steps):
        texts, truth = sample_captions(rng, 64)
        ids, counts = prompts(texts)
        with mixed_precision():
            context = path(ids, counts, registers=8)
        loss, spread, right = torch.zeros(()), torch.zeros(()), []
        for stream, rows in (("video", context.video.float()), ("audio", context.audio.float())):
            registers = rows[:, ids.shape[1] :]
            summary = registers.mean(1)
            spread = spread + (registers - summary[:, None]).square().mean()
            for name in ATTRIBUTES:
                scores = heads[f"{stream}_{name}"](summary)
                loss = loss + F.cross_entropy(scores, truth[name])
                right.append((scores.argmax(-1) == truth[name]).float().mean().item())
        optimiser.zero_grad()
        (loss + spread).backward()
        torch.nn.utils.clip_grad_norm_(optimiser.parameters, 1.0)
        optimiser.step(trapezoid(step, steps, warmup=30, decay=0.5))
        average.update()
        if step % 50 == 0 or step == steps - 1:
            report(step=step, loss=loss.item(), spread=spread.item(), worst=min(right), mean=sum(right) / len(right))
    path.load_state_dict(average.state)
    save(path)
    return path
