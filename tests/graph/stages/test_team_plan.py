"""Who computes what of a stage, what it takes on each machine, and how many bytes go between them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx
import pytest
from guided_stage import guided_task
from thread_machines import on_machines

from ltx2rt import api, embedded
from ltx2rt.errors import MachineLost, UsageError
from ltx2rt.graph.components import TRANSFORMER
from ltx2rt.graph.diffusion.denoising import GuidancePass, PredictRequest
from ltx2rt.graph.diffusion.guidance import GuiderParams
from ltx2rt.graph.diffusion.predictions import Denoised
from ltx2rt.graph.models.transformer.config import TransformerConfig
from ltx2rt.graph.models.transformer.footprint import CallShape, call_flops, call_footprint
from ltx2rt.graph.models.transformer.token_share import gathering_tokens
from ltx2rt.graph.pipelines.plan import Plan, Rates
from ltx2rt.graph.settings.weight_files import WeightFiles
from ltx2rt.graph.stages.clip_team import Budget, Machines, Pace
from ltx2rt.graph.stages.denoise.leading import shared_options
from ltx2rt.graph.stages.denoise.machine_part import InStep, MachinePart, pass_shares
from ltx2rt.graph.stages.denoise.needs import denoise_options, said
from ltx2rt.graph.stages.denoise.passes import WALKS, Walk
from ltx2rt.graph.stages.denoise.task import DenoiseTask
from ltx2rt.graph.stages.denoise.team_choice import grouped, part_of, stage_seconds
from ltx2rt.graph.stages.denoise.team_passes import TeamPasses
from ltx2rt.graph.stages.denoise.team_traffic import evaluation_traffic
from ltx2rt.graph.stages.team_facts import differences, machine_facts
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.memory.ledger import Ledger
from ltx2rt.team.links import Links
from ltx2rt.team.team import Groups, Rules, Split, Team

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
GROUPS: dict[str, Callable[[int], Groups]] = {
    "passes": lambda size: tuple((machine,) for machine in range(size)),
    "tokens": lambda size: (tuple(range(size)),),
    "both": lambda size: grouped((1.0,) * size, 2),
}


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
    assert pass_shares(PASSES[:count], (1.0,) * machines, 48) == expected


@pytest.mark.parametrize(
    ("count", "speeds", "expected"),
    [
        (4, (2, 1), ((0, 1, 2), (3,))),
        (4, (1, 3), ((1,), (0, 2, 3))),
        (4, (1, 100), ((), (0, 1, 2, 3))),
        (4, (1, 1, 3), ((1,), (3,), (0, 2))),
        (2, (1, 2, 1.5), ((), (0,), (1,))),
        (2, (1, 1, 4), ((), (), (0, 1))),
        (2, (2, 1), ((0,), (1,))),  # as early as both on the faster one
    ],
)
def test_passes_are_dealt_by_speed(
    count: int, speeds: tuple[float, ...], expected: tuple[tuple[int, ...], ...]
) -> None:
    """A leader has none where it would be the last."""
    assert pass_shares(PASSES[:count], speeds, 48) == expected


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
        ("both", 3, True, 100, "both"),
        ("both", 2, False, 100, "tokens"),
        ("tokens", 3, True, 0, "passes"),  # of sound alone there are few tokens
        ("auto", 2, False, 0, None),
    ],
)
def test_what_is_shared(split: Split, size: int, guided: bool, video: int, expected: str | None) -> None:
    guider = TASK.video_guider if guided else GuiderParams()
    task = replace(TASK, video=video, video_guider=guider, audio_guider=guider)
    part = part_of(Machines(size, 1, split), task, WIDE)
    assert (None if part is None else part.groups) == (None if expected is None else GROUPS[expected](size))


def pace(bandwidth: float, latency: float = 1e-4) -> Pace:
    return Pace(Links(latency, bandwidth), 1e13)


@pytest.mark.parametrize(
    ("size", "bandwidth", "expected"),
    [
        (8, 1e9, ((0, 4), (1, 5), (2, 6), (3, 7))),
        pytest.param(8, 6e8, ((0, 4), (1, 5), (2, 6), (3, 7)), marks=pytest.mark.slow),
        (8, 1e6, GROUPS["passes"](8)),  # over such a cable half of the machines are better idle
        (5, 1e8, GROUPS["passes"](5)),
        (5, 1e12, GROUPS["tokens"](5)),  # groups of 2, 1, 1 and 1 would take as long as four machines
        (6, 2e9, ((0, 3), (1, 4), (2, 5))),  # two passes that begin the same in one of three groups
    ],
)
def test_more_machines_than_passes_share_what_takes_least_time(size: int, bandwidth: float, expected: Groups) -> None:
    part = part_of(Machines(size, 0, "auto", pace=pace(bandwidth)), TASK, WIDE)
    assert part is not None
    assert part.groups == expected
    others = [*(GROUPS[name](size) for name in GROUPS), *(grouped((1.0,) * size, count) for count in (2, 3, 4))]
    seconds = [stage_seconds(WIDE, TASK, pace(bandwidth), replace(part, groups=groups)) for groups in others]
    assert stage_seconds(WIDE, TASK, pace(bandwidth), part) == min(seconds)


def test_groups_need_machines_that_reach_each_other_and_passes() -> None:
    machines = Machines(8, 0, "auto", grouping=False, pace=pace(1e9))
    part = part_of(machines, TASK, WIDE)
    assert part is not None
    assert part.groups in (GROUPS["tokens"](8), GROUPS["passes"](8))
    alone = replace(TASK, video_guider=GuiderParams(), audio_guider=GuiderParams())
    for split in ("auto", "both"):
        part = part_of(Machines(8, 0, split, pace=pace(1e9)), alone, WIDE)
        assert part is not None
        assert part.groups == GROUPS["tokens"](8)
    assert part_of(Machines(8, 0, "both", pace=pace(1e9)), replace(TASK, video=0), WIDE) == MachinePart(
        0, GROUPS["passes"](8), (1.0,) * 8, WIDE.num_layers
    )


@pytest.mark.parametrize(
    ("shares", "count", "expected"),
    [
        ((1, 1, 1, 1), 2, ((0, 2), (1, 3))),
        ((1, 1, 1), 2, ((0, 2), (1,))),
        ((1, 3, 1, 1), 2, ((0, 2, 3), (1,))),
        ((4, 1, 2, 3, 2), 2, ((0, 4), (1, 2, 3))),
        ((1, 1, 1, 1, 1), 4, ((0, 4), (1,), (2,), (3,))),
    ],
)
def test_groups_are_as_equally_fast_as_can_be(shares: tuple[float, ...], count: int, expected: Groups) -> None:
    assert grouped(shares, count) == expected


def test_machines_of_groups_receive_the_keys_of_their_passes_alone() -> None:
    """Two passes: on four machines in two groups each receives half of a pass, in place of three quarters of two."""
    guided = replace(TASK, video_guider=GuiderParams(cfg_scale=3.0), audio_guider=GuiderParams())
    assert len(guided.all_passes) == 2
    in_step = InStep("together", 1)
    together = evaluation_traffic(WIDE, shared("tokens", 0, 4, guided), in_step)
    both = evaluation_traffic(WIDE, shared("both", 0, 4, guided), in_step)
    assert together.received["keys and values"] == 3 * both.received["keys and values"]
    assert together.exchanges["keys and values"] == 2 * both.exchanges["keys and values"]
    # The estimates of two passes, of which each machine gives half of one, and those of the own tokens in the group.
    across = 3 * (6144 + 126) * 128 * 4 // 2
    assert both.received["estimates"] == across + 3072 * 128 * 2


def shared(split: Any, rank: int, size: int, task: DenoiseTask = TASK, shares: tuple[float, ...] = ()) -> DenoiseTask:
    return replace(task, part=MachinePart(rank, GROUPS[split](size), shares or (1.0,) * size, WIDE.num_layers))


def test_a_faster_machine_has_more_of_the_work_and_of_the_memory() -> None:
    alone = replace(TASK, video_guider=GuiderParams(), audio_guider=GuiderParams())
    parts = [shared("tokens", rank, 2, alone, (2.0, 1.0)) for rank in range(2)]
    assert [part.own(6144) for part in parts] == [4096, 2048]
    assert [said(part)["own part"] for part in parts] == ["4096 of 6144 tokens", "2048 of 6144 tokens"]
    # Both receive pieces as long as the longer one.
    for part in parts:
        traffic = evaluation_traffic(WIDE, part, InStep("together", 1))
        assert traffic.received["keys and values"] == 48 * 2 * 4096 * (4096 + 2048) * 2
    shapes = [
        CallShape(own, 126, 1024, all_video=6144, gathering=gathering_tokens((4096, 2048), 1)) for own in (4096, 2048)
    ]
    more, less = (call_flops(WIDE, shape) for shape in shapes)
    assert 1.8 < more / less < 2
    assert call_footprint(WIDE, shapes[1], 8192).total < call_footprint(WIDE, shapes[0], 8192).total


def test_room_for_what_is_gathered() -> None:
    """Each of keys and values: the piece that is given, those that come, and where they are put together."""
    assert gathering_tokens((100, 100), 1) == 100 + 200
    assert gathering_tokens((100, 99), 1) == 100 + 200
    assert gathering_tokens((100, 100), 2) == 100 + 200 + 200
    assert gathering_tokens((150, 50), 1) == 150 + 300
    assert gathering_tokens((50, 150), 1) == 150 + 300 + 200
    assert gathering_tokens((170, 10, 20), 1) == 400  # added up


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
    whole, half = CallShape(6144, 126, 1024), CallShape(3072, 126, 1024, all_video=6144, gathering=6144)
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
    other = replace(task, part=MachinePart(1, GROUPS["tokens"](2), (1.0, 1.0), blocks))

    def least(walk: Walk) -> int:
        ways = denoise_options(files.checkpoint, files.config(TRANSFORMER), other, InStep(walk, 1))
        return min(Ledger(None, 0).least_budget(need) for need in ways)

    needed = {walk: least(walk) for walk in WALKS}
    assert needed["in turn"] < needed["together"]
    for limit in (None, *needed.values()):
        machines = Machines(2, 0, "tokens", (Budget(None, 0), Budget(limit, 0)))
        leading = replace(task, part=part_of(machines, task, files.config(TRANSFORMER)))
        chosen = next(iter(shared_options(files, leading, machines))).settings["walk"]
        assert chosen == next(walk for walk in WALKS if limit is None or needed[walk] <= limit)


def test_a_machine_that_cannot_do_its_part_is_named() -> None:
    files = of_embedded()
    machines = Machines(3, 0, "auto", (Budget(None, 0), Budget(None, 0), Budget(1 << 20, 0)))
    task = replace(TASK, video=600, audio=20, text=64)
    leading = replace(task, part=part_of(machines, task, files.config(TRANSFORMER)))
    with pytest.raises(MachineLost, match=r"machine 2 has too little memory for its part of stage 'denoise'"):
        list(shared_options(files, leading, machines))


@pytest.mark.parametrize(
    ("split", "shares"),
    [
        pytest.param("passes", (1, 1), marks=pytest.mark.slow),
        pytest.param("tokens", (2, 1), marks=pytest.mark.slow),
        pytest.param("passes", (1, 9), marks=pytest.mark.slow),  # the leader computes nothing
        pytest.param("tokens", (1, 1), marks=pytest.mark.slow),
        pytest.param("tokens", (1, 5, 1), marks=pytest.mark.slow),  # added up
        ("both", (1, 1, 1)),
        pytest.param("both", (1, 2, 1, 1, 1), marks=pytest.mark.slow),
        pytest.param("both", (1,) * 8, marks=pytest.mark.slow),
    ],
)
def test_bytes_of_an_evaluation_are_those_of_the_plan(
    split: Split, shares: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, size = 2, len(shares)

    def planned(rank: int) -> Plan:
        machines = Machines(size, rank, split, shares=shares)
        return api.load("one-stage").plan("a red circle", machines=machines, rates=RATES, **clip)[0]

    def work(team: Team) -> Any:
        pipeline = api.load("one-stage", keep_loaded=False)
        if team.leads:
            pipeline("a red circle", team=team, **clip)
        else:
            pipeline.assist(team)
        return seen[team]

    compute, seen = TeamPasses._compute, defaultdict[Team, list[tuple[int, int]]](list)

    def computed(self: TeamPasses, request: PredictRequest) -> Sequence[Denoised]:
        found, traffic = compute(self, request), self._team.traffic
        seen[self._team].append((sum(traffic.received.values()), sum(traffic.calls.values())))
        return found

    monkeypatch.setattr(TeamPasses, "_compute", computed)
    monkeypatch.setattr("ltx2rt.api.pipeline.measured_pace", lambda team, split: None)  # the plan knows none, too
    clip = {**SMALL, "num_inference_steps": steps}
    measured = on_machines(size, work, rules=Rules(split, shares=shares))
    for plan, (first, second) in zip(map(planned, range(size)), measured, strict=True):
        if not plan.stages:
            continue  # it has nothing to do
        need = plan.stages[-1].need
        assert need.received / steps == pytest.approx(second[0] - first[0], rel=0.01)
        assert need.exchanges / steps == second[1] - first[1]
        assert f"{size} share" in need.choice["machines"]
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
