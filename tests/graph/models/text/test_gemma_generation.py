"""Text generation: the cache changes nothing, choices follow the sampling options, rejected arguments."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
import test_gemma4
from test_gemma3 import as_params, random_arrays, tiny

from ltx2rt.errors import UsageError
from ltx2rt.graph.models.text.gemma import Gemma
from ltx2rt.graph.models.text.gemma3 import Gemma3Config
from ltx2rt.graph.models.text.gemma4 import Gemma4Config
from ltx2rt.graph.models.text.generation import generate_tokens
from ltx2rt.graph.models.text.token_sampling import SamplingOptions, TokenSampler

GREEDY = SamplingOptions(temperature=0, max_new_tokens=12)


@pytest.fixture(scope="module", params=["Gemma 3", "Gemma 4"])
def model(request: pytest.FixtureRequest) -> Gemma:
    if request.param == "Gemma 3":
        config = Gemma3Config.from_dict(tiny())
        return Gemma(config, as_params(config, random_arrays(config)), mx.float32)
    small = Gemma4Config.from_dict(test_gemma4.tiny(**test_gemma4.SMALL))
    return Gemma(small, test_gemma4.as_params(small, test_gemma4.random_arrays(small)), mx.float32)


def best_next(model: Gemma, ids: list[int]) -> tuple[int, float]:
    """The best next token of a whole text read without a cache, and its lead over the second."""
    *_, last = model.hidden_states(np.array(ids))
    scores = np.array(model.logits(last[:, -1:])[0, 0])
    order = np.argsort(-scores)
    return int(order[0]), float(scores[order[0]] - scores[order[1]])


# The window is 7: prompts below, at and above it, and texts that grow past it.
@pytest.mark.parametrize("length", [1, 6, 7, 15])
def test_tokens_are_those_of_reading_the_whole_text_each_time(model: Gemma, length: int) -> None:
    ids = [int(i) for i in np.random.default_rng(length).integers(0, 50, length)]
    for token in generate_tokens(model, np.array(ids), (), GREEDY):
        wanted, lead = best_next(model, ids)
        assert lead > 1e-5
        assert token == wanted
        ids.append(token)
    assert len(ids) == length + 12


def test_a_stop_token_ends_the_text_and_is_not_given(model: Gemma) -> None:
    ids = np.array([3, 1, 4])
    tokens = list(generate_tokens(model, ids, (), GREEDY))
    stop = tokens[5]
    assert list(generate_tokens(model, ids, (stop,), GREEDY)) == tokens[: tokens.index(stop)]


def test_the_seed_decides(model: Gemma) -> None:
    texts = [
        list(generate_tokens(model, np.array([3, 1, 4]), (), SamplingOptions(3.0, seed=seed, max_new_tokens=20)))
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_ids_outside_the_vocabulary_are_refused(model: Gemma) -> None:
    with pytest.raises(ValueError, match="ids below 50"):
        generate_tokens(model, np.array([50]), (), GREEDY)


def frequencies(options: SamplingOptions, logits: np.ndarray, draws: int = 4000) -> np.ndarray:
    sampler = TokenSampler(options)
    return np.bincount([sampler.choose(logits) for _ in range(draws)], minlength=logits.size) / draws


def test_temperature_shapes_the_probabilities() -> None:
    logits = np.array([1.0, 0.0, 2.0, -1.0], np.float32)
    wanted = np.exp(logits / 0.5) / np.exp(logits / 0.5).sum()
    found = frequencies(SamplingOptions(temperature=0.5, top_k=0, top_p=1), logits)
    np.testing.assert_allclose(found, wanted, atol=0.03)


def test_top_k_and_top_p_cut_the_tail() -> None:
    logits = np.log(np.array([0.1, 0.5, 0.3, 0.1], np.float32))
    by_k = frequencies(SamplingOptions(temperature=1, top_k=2, top_p=1), logits)
    np.testing.assert_allclose(by_k, [0, 0.625, 0.375, 0], atol=0.03)
    # 0.5 alone does not reach 0.6, 0.5 + 0.3 does.
    by_p = frequencies(SamplingOptions(temperature=1, top_k=0, top_p=0.6), logits)
    np.testing.assert_allclose(by_p, [0, 0.625, 0.375, 0], atol=0.03)


def test_no_run_comes_twice() -> None:
    sampler = TokenSampler(SamplingOptions(temperature=0, no_repeat=3), [0, 1, 2, 0, 1])
    scores = np.array([0.0, 1.0, 3.0, 2.0])
    assert [sampler.choose(scores) for _ in range(4)] == [3, 2, 2, 2]
    assert sampler.choose(scores) == 3  # 2, 2, 2 has been
    assert [TokenSampler(SamplingOptions(temperature=0)).choose(scores) for _ in range(2)] == [2, 2]
    alone = TokenSampler(SamplingOptions(temperature=0, no_repeat=1), [2])
    assert [alone.choose(scores) for _ in range(3)] == [3, 1, 0]


def test_scores_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="not numbers"):
        TokenSampler(GREEDY).choose(np.array([0.0, np.nan]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (SamplingOptions(temperature=-1), "temperature of the prompt enhancement must be 0 to 10, got -1"),
        (SamplingOptions(top_p=1.5), "top_p"),
        (SamplingOptions(top_k=-1), "top_k"),
        (SamplingOptions(max_new_tokens=0), "max_new_tokens"),
    ],
)
def test_options_outside_their_range_are_refused(options: SamplingOptions, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        options.check()
