"""Commands on several machines, which threads stand for: every pipeline has the bits of one, with both splits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from command_inputs import one_file, upscaler
from test_docs import PAGES, commands, documented_files, shrunk, workplace  # noqa: F401  # two are fixtures
from thread_machines import Table, ThreadGroup

from ltx2rt import embedded
from ltx2rt.api import pipeline
from ltx2rt.cli import generate as command
from ltx2rt.cli import team as team_options
from ltx2rt.cli.flags import FLAGS
from ltx2rt.cli.main import run
from ltx2rt.graph.stages import clip_team
from ltx2rt.graph.stages.team_facts import machine_facts
from ltx2rt.team.environment import Asked
from ltx2rt.team.team import Rules, Team

DOCS = Path(__file__).parents[2] / "docs" / "pipelines"
SMALL = ["--prompt", "a red circle", "--height", "64", "--width", "64", "--num-frames", "9"]
FEW_STEPS = ["--steps", "2"]

Together = Callable[..., list[int]]


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> Together:
    """Runs the words of a command on several machines; the exit code of each, the leader's first."""
    place = threading.local()

    def connect(patience: float, rules: Rules | None = None) -> Team | None:
        if not hasattr(place, "rank"):
            return None
        return Team(ThreadGroup(place.table, place.rank), patience, rules)

    monkeypatch.setattr(team_options.Team, "connect", connect)
    monkeypatch.setattr(command, "assists", lambda: getattr(place, "rank", 0) > 0)
    monkeypatch.setattr(
        "ltx2rt.cli.machines.asked_for",
        lambda environ: Asked("ring", place.rank, place.table.size) if hasattr(place, "rank") else None,
    )

    def on_machines(words: list[str], size: int = 2, of_machine: dict[int, list[str]] | None = None) -> list[int]:
        table, codes = Table(size), [-1] * size

        def machine(rank: int) -> None:
            place.table, place.rank = table, rank
            codes[rank] = run(["generate", "--quiet", *words, *(of_machine or {}).get(rank, [])])

        threads = [threading.Thread(target=machine, args=(rank,)) for rank in range(size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return codes

    return on_machines


def latents_of(folder: Path, name: str, words: list[str], start: Callable[[list[str]], object]) -> bytes:
    """The final latents of a run, the only file that it wrote besides their record."""
    path = folder / name / "latents.safetensors"
    path.parent.mkdir()
    start([*words, "--skip-vae", "--save-latents", str(path), "-o", str(path.parent / "clip.mp4")])
    assert {file.name for file in path.parent.iterdir()} == {path.name, f"{path.name}.json"}
    return path.read_bytes()


def assert_same_bits(
    folder: Path, words: list[str], together: Together, size: int, split: str, of_teams: Sequence[str] = ()
) -> None:
    """``of_teams``: words that have a meaning on several machines alone."""

    def alone(whole: list[str]) -> None:
        assert run(["generate", "--quiet", *whole]) == 0

    def shared(whole: list[str]) -> None:
        assert together([*whole, "--split", split, *of_teams], size) == [0] * size

    expected = latents_of(folder, "alone", words, alone)
    assert latents_of(folder, "together", words, shared) == expected


RUNS = [
    ("one-stage", [*FEW_STEPS, "--video-skip-step", "1"], 2, "auto"),
    pytest.param("distilled", ["--memory", "109MB"], 2, "auto", marks=pytest.mark.slow),
    pytest.param("one-stage", FEW_STEPS, 3, "tokens", marks=pytest.mark.slow),
    pytest.param("text-to-audio", ["--steps", "1"], 3, "auto", marks=pytest.mark.slow),
]


@pytest.fixture
def steady_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Budgets count what the process takes, whatever that of the tests has grown to."""
    monkeypatch.setattr("ltx2rt.memory.ledger._process_bytes", lambda: 100_000_000)
    monkeypatch.setattr("ltx2rt.memory.ledger.resident_bytes", lambda: 100_000_000)


@pytest.mark.usefixtures("steady_process")
@pytest.mark.parametrize(("name", "more", "size", "split"), RUNS)
def test_a_clip_of_several_machines_has_the_bits_of_one(
    name: str,
    more: list[str],
    size: int,
    split: str,
    together: Together,
    tmp_path: Path,
) -> None:
    small = SMALL if name != "text-to-audio" else [*SMALL[:2], *SMALL[6:]]
    assert_same_bits(tmp_path, ["--pipeline", name, *small, *more], together, size, split)


TWO_PASSES = [
    *("--video-stg-guidance-scale", "0", "--audio-stg-guidance-scale", "0"),
    *("--a2v-guidance-scale", "1", "--v2a-guidance-scale", "1"),
]
GROUPED = [
    (4, TWO_PASSES, []),
    pytest.param(3, [], [], marks=pytest.mark.slow),
    pytest.param(8, [], [], marks=pytest.mark.slow),
    pytest.param(5, [*TWO_PASSES, "--fp32"], ["--shares", "1,3,1,0.5,2"], marks=pytest.mark.slow),
    pytest.param(4, ["--fp16"], ["--shares", "1,1,6,1"], marks=pytest.mark.slow),
    pytest.param(3, [*TWO_PASSES, "--memory", "143MB"], [], marks=pytest.mark.slow),
]


@pytest.mark.usefixtures("steady_process")
@pytest.mark.parametrize(("size", "more", "of_teams"), GROUPED)
def test_a_clip_of_groups_of_machines_has_the_bits_of_one(
    size: int,
    more: list[str],
    of_teams: list[str],
    together: Together,
    tmp_path: Path,
) -> None:
    words = ["--pipeline", "one-stage", *SMALL, *FEW_STEPS, *more]
    assert_same_bits(tmp_path, words, together, size, "both", of_teams)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "rate"), [(3, 1e6), (5, 1e15), (8, 1e9)])
def test_what_is_chosen_by_time_has_the_bits_of_one(
    size: int, rate: float, together: Together, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip_team, "stage_flops", lambda: rate)
    words = ["--pipeline", "one-stage", *SMALL, *FEW_STEPS, *TWO_PASSES]
    assert_same_bits(tmp_path, words, together, size, "auto")


def test_groups_need_three_machines_or_more_that_reach_each_other(
    together: Together, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*SMALL, "-o", str(tmp_path / "clip.mp4"), "--split", "both"]
    assert together(words) == [2, 2]
    assert capsys.readouterr().err.count("--split both needs 3 machines or more, but there are 2") == 2
    monkeypatch.setattr(ThreadGroup, "addresses", None)
    assert together(words, 3) == [2, 2, 2]
    assert capsys.readouterr().err.count("--split both needs machines that all reach each other over TCP") == 3
    assert list(tmp_path.iterdir()) == []


UNEQUAL = [
    pytest.param("tokens", "1,2.5", marks=pytest.mark.slow),  # as tests/graph/models/transformer/test_token_share.py
    pytest.param("passes", "1,9", marks=pytest.mark.slow),  # the leader computes nothing
    pytest.param("passes", "1,2.5,1", marks=pytest.mark.slow),
    pytest.param("tokens", "1,7,1", marks=pytest.mark.slow),
    pytest.param("auto", "1,0.2,0.9,1.6,3", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("split", "shares"), UNEQUAL)
def test_a_clip_of_machines_of_unequal_speed_has_the_bits_of_one(
    split: str, shares: str, together: Together, tmp_path: Path
) -> None:
    words = ["--pipeline", "one-stage", *SMALL, *FEW_STEPS]
    assert_same_bits(tmp_path, words, together, len(shares.split(",")), split, ["--shares", shares])


@pytest.mark.parametrize(
    ("shares", "says"),
    [
        ("2,1,1", "--shares has 3 numbers, but there are 2 machines; give one for each machine"),
        ("2,0", "--shares must be one positive number for each machine, got (2.0, 0.0)"),
    ],
)
def test_shares_that_cannot_work_end_every_machine_with_2(
    shares: str, says: str, together: Together, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert together([*SMALL, "-o", str(tmp_path / "clip.mp4"), "--shares", shares]) == [2, 2]
    assert capsys.readouterr().err.count(says) == 2
    assert list(tmp_path.iterdir()) == []


def test_shares_are_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(["generate", *SMALL, "--shares", "2,x"])
    assert ended.value.code == 2
    assert "--shares: must be numbers like 2,1, got '2,x'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["generate"], ["generate", "--plan"], ["plan"], ["doctor"]])
def test_shares_of_one_machine_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    prompt = [] if words == ["doctor"] else SMALL
    assert run([*words, *prompt, "--shares", "2,1"]) == 2
    assert "--shares has 2 numbers, but this is one machine alone" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["generate", "--plan"], ["plan"]])
def test_a_file_of_options_may_have_shares(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "job.toml"
    config.write_text('shares = "2,1"\n')
    assert run([*words, *SMALL, "--config", str(config)]) == 2
    assert "--shares has 2 numbers, but this is one machine alone" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("split", "size"), [("passes", 2), ("tokens", 2), ("both", 3)])
@pytest.mark.parametrize("page", PAGES)
def test_every_documented_command_has_the_bits_of_one_machine(
    page: str,
    split: str,
    size: int,
    together: Together,
    workplace: Path,  # noqa: F811
) -> None:
    made = 0
    for number, words in enumerate(shrunk(words) for words in commands(DOCS / page)):
        if words[0] == "encode":
            assert run(words) == 0  # it makes what the next one reads
        if words[0] != "generate":
            continue
        folder = workplace / f"of {number}"
        folder.mkdir()
        assert_same_bits(folder, without_outputs(words[1:]), together, size, split)
        made += 1
    assert made


def without_outputs(words: list[str]) -> list[str]:
    """The words without their output, and without further ones."""
    kept = [word for word in words if word != "--save-control"]
    for option in (flag.names for flag in FLAGS if flag.target == "output" or flag.dest == "output_path"):
        for name in set(option) & set(kept):
            place = kept.index(name)
            del kept[place : place + 2]
    return kept


WINDOWS = [
    "--num-frames",
    "65",
    "--chunk-pixel-frames",
    "33",
    "--chunk-carry-frames",
    "17",
    "--chunk-blend-frames",
    "8",
]
SPECIAL = {
    "windows": ["--pipeline", "distilled", *SMALL[:6], *WINDOWS],
    "float32": ["--pipeline", "one-stage", *SMALL, *FEW_STEPS, "--fp32"],
    "float16": ["--pipeline", "one-stage", *SMALL, *FEW_STEPS, "--fp16"],
    "one state in a batch": ["--pipeline", "one-stage", *SMALL, *FEW_STEPS, "--max-batch-size", "1"],
}


@pytest.mark.slow
@pytest.mark.parametrize(("split", "size"), [("passes", 2), ("tokens", 2), ("both", 3)])
@pytest.mark.parametrize("case", SPECIAL)
def test_ways_of_computing(case: str, split: str, size: int, together: Together, tmp_path: Path) -> None:
    assert_same_bits(tmp_path, SPECIAL[case], together, size, split)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["passes", "tokens"])
def test_weights_and_activations_in_8_bits(split: str, together: Together, tmp_path: Path) -> None:
    path = tmp_path / "toy-dev.safetensors"
    assert run(["convert", "--format", "int8-convrot", "--quiet", str(embedded.CHECKPOINT), str(path)]) == 0
    words = ["--pipeline", "one-stage", *SMALL, *FEW_STEPS, "--activations", "int8", "--checkpoint-path", str(path)]
    assert_same_bits(tmp_path, [*words, "--gemma-root", str(embedded.TEXT_ENCODER)], together, 2, split)


def test_other_settings_end_every_machine_with_2_and_leave_nothing(
    together: Together, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*SMALL, "-o", str(tmp_path / "clip.mp4")]
    codes = together(words, of_machine={0: ["--seed", "1"], 1: ["--seed", "2"]})
    assert codes == [2, 2]
    said = capsys.readouterr()
    assert said.err.count("--seed: machine 0 has 1, machine 1 2") == 2
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_machines_of_other_kinds_are_refused_unless_they_are_allowed(
    together: Together, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def facts(*arguments: Any) -> dict[str, str]:
        return {**machine_facts(*arguments), "instructions": threading.current_thread().name}

    monkeypatch.setattr(pipeline, "machine_facts", facts)
    words = ["--pipeline", "text-to-audio", *SMALL[:2], *SMALL[6:], "--steps", "1", "--no-sidecar"]
    words += ["-o", str(tmp_path / "clip.wav")]
    assert together(words) == [2, 2]
    said = capsys.readouterr()
    assert said.err.count("instructions: machine 0 has") == 2
    assert "--allow-mixed accepts that" in said.err
    assert list(tmp_path.iterdir()) == []
    assert together([*words, "--allow-mixed"]) == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["clip.wav"]


def test_a_machine_with_too_little_memory_ends_every_one_with_75(
    together: Together, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*SMALL, "-o", str(tmp_path / "clip.mp4")]
    assert together(words, of_machine={1: ["--memory", "1MB"]}) == [75, 75]
    said = capsys.readouterr().err
    assert "machine 1 has too little memory for its part of stage 'denoise 1'" in said
    assert list(tmp_path.iterdir()) == []


def test_options_of_a_team_have_no_effect_on_one_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--pipeline", "text-to-audio", *SMALL[:2], *SMALL[6:], "--steps", "1", "-o", str(tmp_path / "a.wav")]
    assert run(["generate", *words, "--split", "tokens", "--patience", "5", "--allow-mixed"]) == 0
    said = capsys.readouterr().err
    for option in ("--split", "--patience", "--allow-mixed"):
        assert f"{option} has no effect: this is one machine alone" in said


@pytest.mark.slow
def test_a_plan_does_not_look_at_the_group(together: Together, weights: Path) -> None:
    assert together(["--plan", *SMALL, *one_file(weights, "dev"), *upscaler(weights)]) == [0, 0]
