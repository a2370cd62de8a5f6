"""Hidden states of several passes on their way through the blocks: on the batch axis, apart, and what they share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import mlx.core as mx

from ltx2rt.graph.models.transformer.block import Modulation, Stream, Streams
from ltx2rt.graph.models.transformer.shared_passes import Shared
from ltx2rt.kernels import RopeTable


def regrouped(
    held: Sequence[tuple[Shared, Streams]],
    batches: Sequence[Shared],
    template: Streams,
    prompts: Sequence[int],
) -> list[tuple[Shared, Streams]]:
    """The hidden states in other batches; a state that passes had in common is there once for each that has left.

    Args:
        held: the states as they are.
        batches: as they are wanted.
        template: streams of one state, with the contexts of all prompts.
        prompts: number of the prompt of each pass.
    """
    places = {
        number: (streams, place, len(states))
        for states, streams in held
        for place, of_state in enumerate(states)
        for number in of_state
    }
    return [
        (
            states,
            (
                _together(0, states, places, template[0], prompts),
                _together(1, states, places, template[1], prompts),
            ),
        )
        for states in batches
    ]


def _together(
    which: int,
    states: Shared,
    places: Mapping[int, tuple[Streams, int, int]],
    template: Stream | None,
    prompts: Sequence[int],
) -> Stream | None:
    """One stream of several states on the batch axis."""
    if template is None:
        return None
    parts = []
    for of_state in states:
        streams, place, count = places[of_state[0]]
        stream = streams[which]
        assert stream is not None
        part = state_of(stream.x, place, count)
        assert part is not None
        parts.append(part)
    times = len(states)

    def repeated(values: mx.array) -> mx.array:
        return values if times == 1 else mx.concatenate([values] * times)

    def modulation(own: Modulation) -> Modulation:
        return Modulation(own.rows, repeated(own.index))

    def rope(own: RopeTable | None) -> RopeTable | None:
        return own if own is None or own.index.ndim == 2 else own._replace(index=repeated(own.index))

    bias, own_rope = template.self_bias, rope(template.rope)
    assert own_rope is not None
    cross_modulation, cross_gate = template.cross_modulation, template.cross_gate
    return replace(
        template,
        x=parts[0] if times == 1 else mx.concatenate(parts),
        contexts=tuple(template.contexts[prompts[of_state[0]]] for of_state in states),
        self_bias=bias if bias is None or bias.shape[0] == 1 else repeated(bias),
        rope=own_rope,
        modulation=modulation(template.modulation),
        cross_rope=rope(template.cross_rope),
        cross_modulation=None if cross_modulation is None else modulation(cross_modulation),
        cross_gate=None if cross_gate is None else modulation(cross_gate),
        all_rope=rope(template.all_rope),
        all_cross_rope=rope(template.all_cross_rope),
    )


def state_of(values: mx.array | None, place: int, count: int) -> mx.array | None:
    """The ``place``th of ``count`` states that lie on the batch axis."""
    if values is None or count == 1:
        return values
    samples = values.shape[0] // count
    return values[place * samples : (place + 1) * samples]


@contextmanager
def shared_text_keys(streams: Streams, prompts: Sequence[int]) -> Iterator[None]:
    """While a block runs: keys and values of a prompt that several states read are computed once.

    Args:
        streams: have the contexts of all prompts.
        prompts: number of the prompt of each state.
    """
    contexts = [
        context
        for stream in streams
        if stream is not None
        for number, context in enumerate(stream.contexts)
        if prompts.count(number) > 1 and context.key_values is None
    ]
    for context in contexts:
        context.key_values = {}
    try:
        yield
    finally:
        for context in contexts:
            context.key_values = None
