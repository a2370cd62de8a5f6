"""Who computes what of a stage, what it takes on each machine, and how many bytes go between them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import pytest
from guided_stage import guided_task
from thread_machines import on_machines

from ltx2rt import api, embedded
from ltx2rt.errors import MachineLost, UsageError
from ltx2rt.graph.components import TRANSFORMER
from ltx2rt.graph.diffusion.denoising import GuidancePass
from ltx2rt.graph.diffusion.guidance import GuiderParams
from ltx2rt.graph.models.transformer.config import TransformerConfig
from ltx2rt.graph.models.transformer.footprint import CallShape, call_flops, call_footprint
from ltx2rt.graph.pipelines.plan import Plan, Rates
from ltx2rt.graph.settings.weight_files import WeightFiles
from ltx2rt.graph.stages.clip_team import Budget, Machines
from ltx2rt.graph.stages.denoise.leading import part_of, shared_options
from ltx2rt.graph.stages.denoise.machine_part import InStep, MachinePart, pass_shares
from ltx2rt.graph.stages.denoise.needs import denoise_options
from ltx2rt.graph.stages.denoise.passes import WALKS, Walk
from ltx2rt.graph.stages.denoise.task import DenoiseTask
from ltx2rt.graph.stages.denoise.team_traffic import evaluation_traffic
from ltx2rt.graph.stages.events import Evaluated
from ltx2rt.graph.stages.team_facts import differences, machine_facts
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.memory.ledger import Ledger
from ltx2rt.team.team import Rules, Split, Team

RATES = Rates(1e9, 1e9)
SMALL: dict[str, Any] = {"height": 128, "width": 128, "num_frames": 9, "latents_only": True}
PASSES = (
    GuidancePass("cond"),
    GuidancePass("uncond"),
    GuidancePass("perturbed", skip_video_self_attention=(28,), skip_audio_self_attention=(28,)),
    GuidancePass("isolated"),
)
TASK = guided_task(video=6144, audio=126, stg_block=28)
WIDE = TransformerConfig.from_dict({"frequencies_precision": "float64"})


@pytest.mark.parametrize(
    ("count", "machines", "expected"),
    [
        (4, 2, ((0, 2), (1, 3))),  # the perturbed pass begins as the conditional one
        (4, 3, ((0, 2), (1,), (3,))),
        (4, 4, ((0,), (1,), (2,), (3,))),
        (2, 2, ((0,), (1,))),
        (2, 3, ((0,), (1,), ())),
        (1, 2, ((0,), ())),
    ],
)
def test_the_busiest_machine_has_as_little_as_can_be(
    count: int, machines: int, expected: tuple[tuple[int, ...], ...]
) -> None:
    assert pass_shares(PASSES[:count], machines, 48) == expected


@pytest.mark.parametrize(
    ("split", "size", "guided", "video", "expected"),
    [
        ("auto", 1, True, 100, None),
        ("auto", 2, True, 100, "passes"),
        ("auto", 4, True, 100, "passes"),
        ("auto", 5, True, 100, "tokens"),
        ("auto", 2, False, 100, "tokens"),
        ("tokens", 2, True, 100, "tokens"),
        ("passes", 5, True, 100, "passes"),
        ("passes", 2, False, 100, None),
        ("tokens", 3, True, 0, "passes"),  # of sound alone there are few tokens
        ("auto", 2, False, 0, None),
    ],
)
def test_what_is_shared(split: Split, size: int, guided: bool, video: int, expected: str | None) -> None:
    guider = TASK.video_guider if guided else GuiderParams()
    task = replace(TASK, video=video, video_guider=guider, audio_guider=guider)
    part = part_of(Machines(size, 1, split), task, 48)
    assert (None if part is None else part.split) == expected


def shared(split: Any, rank: int, size: int, task: DenoiseTask = TASK) -> DenoiseTask:
    return replace(task, part=MachinePart(split, rank, size, WIDE.num_layers))


def test_bytes_of_a_pass_at_full_size() -> None:
    """Of 19B with 6,144 tokens, half of them elsewhere: keys and values of 4096 and 2048 channels in 48 blocks."""
    alone = replace(TASK, video_guider=GuiderParams(), audio_guider=GuiderParams())
    traffic = evaluation_traffic(WIDE, shared("tokens", 1, 2, alone), InStep("together", 1))
    assert traffic.received["keys and values"] == 48 * 2 * 3072 * (4096 + 2048) * 2
    assert traffic.exchanges["keys and values"] == 48 * 4
    of_passes = evaluation_traffic(WIDE, shared("passes", 1, 2), InStep("together", 1))
    assert of_passes.received["estimates"] == 2 * (6144 + 126) * 128 * 4
    assert of_passes.nbytes < traffic.nbytes / 100


def test_machines_share_the_arithmetic_and_the_memory_of_tokens() -> None:
    whole, half = CallShape(6144, 126, 1024), CallShape(3072, 126, 1024, all_video=6144)
    both = 2 * call_flops(WIDE, half)
    assert call_flops(WIDE, whole) < both < 1.05 * call_flops(WIDE, whole)  # both compute the sound and its prompt
    alone, own = (call_footprint(WIDE, shape, 8192).activations for shape in (whole, half))
    assert own < alone
    # Keys and values of all tokens do not become less with more machines.
    many = call_footprint(WIDE, replace(half, video=384), 8192).activations
    assert many > 2 * 6144 * 4096 * 2


def of_embedded() -> WeightSet:
    return WeightSet.open(WeightFiles(checkpoint=embedded.CHECKPOINT, text_encoder=embedded.TEXT_ENCODER))


def test_the_leader_takes_what_every_machine_can_do() -> None:
    """Machines that share tokens gather in step: when one has no room for the passes side by side, all take turns."""
    files = of_embedded()
    task = replace(TASK, video=600, audio=20, text=64)
    blocks = files.config(TRANSFORMER).num_layers
    other = replace(task, part=MachinePart("tokens", 1, 2, blocks))

    def least(walk: Walk) -> int:
        ways = denoise_options(files.checkpoint, files.config(TRANSFORMER), other, InStep(walk, 1))
        return min(Ledger(None, 0).least_budget(need) for need in ways)

    needed = {walk: least(walk) for walk in WALKS}
    assert needed["in turn"] < needed["together"]
    for limit in (None, *needed.values()):
        machines = Machines(2, 0, "tokens", (Budget(None, 0), Budget(limit, 0)))
        leading = replace(task, part=part_of(machines, task, blocks))
        chosen = next(iter(shared_options(files, leading, machines))).settings["walk"]
        assert chosen == next(walk for walk in WALKS if limit is None or needed[walk] <= limit)


def test_a_machine_that_cannot_do_its_part_is_named() -> None:
    files = of_embedded()
    machines = Machines(3, 0, "auto", (Budget(None, 0), Budget(None, 0), Budget(1 << 20, 0)))
    task = replace(TASK, video=600, audio=20, text=64)
    leading = replace(task, part=part_of(machines, task, files.config(TRANSFORMER).num_layers))
    with pytest.raises(MachineLost, match=r"machine 2 has too little memory for its part of stage 'denoise'"):
        list(shared_options(files, leading, machines))


@pytest.mark.parametrize("split", ["passes", "tokens"])
def test_bytes_of_an_evaluation_are_those_of_the_plan(split: Split) -> None:
    steps = 2

    def planned(rank: int) -> Plan:
        machines = Machines(2, rank, split)
        return api.load("one-stage").plan("a red circle", machines=machines, rates=RATES, **clip)[0]

    def work(team: Team) -> Any:
        pipeline = api.load("one-stage", keep_loaded=False)
        if not team.leads:
            pipeline.assist(team)
            return None
        seen: list[tuple[int, int]] = []

        def look(event: object) -> None:
            if isinstance(event, Evaluated):
                traffic = team.traffic
                seen.append((sum(traffic.received.values()), sum(traffic.calls.values())))

        pipeline("a red circle", observer=look, team=team, **clip)
        return seen

    clip = {**SMALL, "num_inference_steps": steps}
    (first, second), _ = on_machines(2, work, rules=Rules(split))
    for plan in map(planned, range(2)):
        need = plan.stages[-1].need
        assert need.received / steps == pytest.approx(second[0] - first[0], rel=0.01)
        assert need.exchanges / steps == second[1] - first[1]
        assert "2 share" in need.choice["machines"]
    assert [stage.need.name for stage in planned(1).stages] == ["denoise"]
    assert len(planned(0).stages) > 1


def test_facts_that_differ_are_named_and_those_of_a_machine_may() -> None:
    facts = machine_facts(of_embedded(), mx.bfloat16)
    assert facts["weights of the transformer"].startswith("sampled-sha256:")
    assert differences([facts, dict(facts), dict(facts)]) == []
    other = {**facts, "instructions": "another", "mlx": "0.0"}
    assert differences([facts, facts, other], allow_mixed=True) == [f"mlx: machine 0 has {facts['mlx']}, machine 2 0.0"]
    assert len(differences([facts, other])) == 2
    lacking = {name: value for name, value in facts.items() if name != "dtype"}
    assert differences([facts, lacking]) == [f"dtype: machine 0 has {facts['dtype']}, machine 1 nothing"]


def test_the_wrong_call_on_a_machine_is_refused() -> None:
    def work(team: Team) -> None:
        pipeline = api.load("distilled")
        if team.leads:
            with pytest.raises(UsageError, match="leads the team; call the pipeline"):
                pipeline.assist(team)
        else:
            with pytest.raises(UsageError, match="machine 1 does not lead the team"):
                pipeline("a red circle", team=team, **SMALL)

    on_machines(2, work)
