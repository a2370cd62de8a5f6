"""One denoising pass at 19B width on two machines that share its tokens, over a cable of 10 Gbit/s, beside one machine.

    python benchmarks/two_machines.py [--rounds 5] [--cable 10gbit] [--tokens 1024] [--layers 2] [--other-isa avx2]

The machines are processes of one core each, in network namespaces that only a cable joins, whose rate `tc` limits; that
needs Linux, root, two cores and iproute2. In every round, in turn: the pass on one machine; on both, each for itself;
on both together, with keys and values gathered while other things are computed, and in turn. The program fails where
both together are less than 1.65 times as fast as one and less than 0.9 of what both for themselves reach, where the
bytes of a pass are not within 1 % of what a plan says, counted and on the cable, or where bits differ.

With --other-isa the second machine has another instruction set, which makes it slower. Then the pass is made together
in equal shares, and in shares by the speeds that the machines reach for themselves; bits differ, and the program fails
where the second way is no faster than the first, or bytes are not as planned.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

AUDIO_TOKENS, TEXT_TOKENS = 126, 1024
TIMES_AS_FAST, OF_TWO_ALONE, BYTES = 1.65, 0.9, 0.01
ADDRESSES = ("10.77.0.1", "10.77.0.2")
PORT = 5001
WAYS = ("one", "both for themselves", "together, overlapped", "together, in turn")
BY_SPEED = "together, by speed"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cable", default="10gbit", help="rate as tc has it, or none")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--other-isa", help="instruction set of the second machine, as LTX2RT_ISA has it")
    parser.add_argument("--machine", type=int, help=argparse.SUPPRESS)  # the process is one of the machines
    arguments = parser.parse_args()
    if arguments.machine is not None:
        return machine(arguments)
    return compare(arguments)


# The side that measures.


def compare(arguments: argparse.Namespace) -> int:
    """Start both machines, let them work round by round, and say what they reach."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the cable is removed
    if os.geteuid() != 0 or len(os.sched_getaffinity(0)) < 2:
        sys.exit("two_machines.py needs root, for network namespaces, and two cores")
    with cable(arguments.cable) as names, tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        hosts = Path(folder, "hosts.json")
        hosts.write_text(json.dumps([[f"{address}:{PORT + rank}"] for rank, address in enumerate(ADDRESSES)]))
        machines = [stack.enter_context(_started(rank, name, hosts, arguments)) for rank, name in enumerate(names)]
        ways = WAYS if arguments.other_isa is None else (*WAYS[:3], BY_SPEED)
        rounds: dict[str, list[list[dict[str, Any]]]] = {way: [] for way in ways}
        crossed: list[int] = []
        shares = [1.0, 1.0]
        for number in range(arguments.rounds + 1):
            for way in ways:
                working = machines[:1] if way == "one" else machines
                before = received(names[0])
                for process in working:
                    ask(process, way, shares if way == BY_SPEED else [1.0, 1.0])
                found = [answer(process) for process in working]
                print(
                    f"round {number}, {way}: {max(own['seconds'] for own in found):.3f} s", file=sys.stderr, flush=True
                )
                if number:  # the first round makes what later ones keep: rotary tables, keys of the prompt
                    rounds[way].append(found)
                    if way.startswith("together"):
                        crossed.append(received(names[0]) - before)
                if way == "both for themselves" and number < 2:  # the first round makes more than a pass
                    shares = [1 / own["seconds"] for own in found]
        for process in machines:
            ask(process, "end", shares)
    return judged(rounds, crossed) if arguments.other_isa is None else judged_by_speed(rounds, shares)


def judged_by_speed(rounds: dict[str, list[list[dict[str, Any]]]], shares: Sequence[float]) -> int:
    """Print the figures of machines of unequal speed; 1 where a bar is missed."""
    ratio = shares[0] / shares[1]
    print(f"the first machine is {ratio:.2f} times as fast as the second: --shares {ratio:.2f},1")
    alone = [found[0]["seconds"] for found in rounds["one"]]
    times = {}
    for way, found in rounds.items():
        seconds = [max(own["seconds"] for own in of_round) for of_round in found]
        times[way] = _median_ratio(alone, seconds)
        waited = zip(*([own["waiting"] for own in of_round] for of_round in found), strict=True)
        waiting = ", ".join(f"{statistics.median(of_machine):.3f}" for of_machine in waited)
        figures = f"{statistics.median(seconds):>10.3f} s, {times[way]:.2f} times as fast as the first"
        print(f"{way:<24}{figures}; waiting {waiting}")
    wrong = [] if times[BY_SPEED] > times[WAYS[2]] else ["no faster than in equal shares"]
    for own in (own for way in (WAYS[2], BY_SPEED) for of_round in rounds[way] for own in of_round):
        if abs(own["received"] / own["planned"] - 1) > BYTES:
            wrong.append(f"{own['received']} bytes, where {own['planned']} are planned")
    print("; ".join(wrong) if wrong else "within all bars")
    return 1 if wrong else 0


def judged(rounds: dict[str, list[list[dict[str, Any]]]], crossed: Sequence[int]) -> int:
    """Print the figures; 1 where a bar is missed."""
    seconds = {way: [max(own["seconds"] for own in found) for found in rounds[way]] for way in WAYS}
    # Medians of what one round has: all of its ways suffer alike from whatever else the computer does.
    passes = {way: 2 if way == "both for themselves" else 1 for way in WAYS}
    times = {way: _median_ratio(seconds["one"], seconds[way]) * passes[way] for way in WAYS}
    of_both = {way: _median_ratio(seconds["both for themselves"], seconds[way]) * passes[way] / 2 for way in WAYS}
    columns = "".join(map("{:>15}".format, ("spread", "times as fast", "of two alone", "processor s", "waiting s")))
    print(f"{'':<24}{'median s':>10}{columns}")
    for way in WAYS:
        median = statistics.median(seconds[way])
        processor, waiting = (
            statistics.median([own[what] for found in rounds[way] for own in found])
            for what in ("processor", "waiting")
        )
        spread = (max(seconds[way]) - min(seconds[way])) / median
        figures = (f"{spread:.2f}", f"{times[way]:.2f}", f"{of_both[way]:.2f}", f"{processor:.3f}", f"{waiting:.3f}")
        print(f"{way:<24}{median:>10.3f}{''.join(map('{:>15}'.format, figures))}")
    shared = [way for way in WAYS if way.startswith("together")]
    best, best_of_both = max(times[way] for way in shared), max(of_both[way] for way in shared)
    together = [own for way in WAYS if way.startswith("together") for found in rounds[way] for own in found]
    counted, on_cable = {own["received"] for own in together}, statistics.median(crossed)
    planned = together[0]["planned"]
    print(f"bytes that a machine receives: planned {planned}, counted {sorted(counted)}, on the cable {on_cable:.0f}")
    digests = {own["digest"] for found in (*rounds["one"], *rounds["together, overlapped"]) for own in found}
    digests |= {own["digest"] for found in rounds["together, in turn"] for own in found}
    wrong = []
    if best < TIMES_AS_FAST and best_of_both < OF_TWO_ALONE:
        wrong.append(f"{best:.2f} times as fast, {best_of_both:.2f} of what both reach for themselves")
    for what, nbytes in (("counted", max(counted)), ("on the cable", on_cable)):
        if abs(nbytes / planned - 1) > BYTES:
            wrong.append(f"{nbytes / planned:.4f} of the planned bytes {what}")
    if len(digests) != 1:
        wrong.append("the bits differ")
    print("; ".join(wrong) if wrong else "within all bars, with the same bits")
    return 1 if wrong else 0


def _median_ratio(these: Sequence[float], those: Sequence[float]) -> float:
    return statistics.median(own / other for own, other in zip(these, those, strict=True))


@contextmanager
def _started(rank: int, namespace: str, hosts: Path, arguments: argparse.Namespace) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, __file__, "--machine", str(rank)]
    words += ["--tokens", str(arguments.tokens), "--layers", str(arguments.layers)]
    environment = {**os.environ, "MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts), "LTX2RT_NUM_THREADS": "1"}
    if rank and arguments.other_isa is not None:
        environment["LTX2RT_ISA"] = arguments.other_isa
    process = subprocess.Popen(
        ["ip", "netns", "exec", namespace, *words],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ask(process: subprocess.Popen[str], way: str, shares: Sequence[float]) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{json.dumps([way, shares])}\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        sys.exit("a machine ended early; see above")
    found: dict[str, Any] = json.loads(line)
    return found


@contextmanager
def cable(rate: str) -> Iterator[tuple[str, str]]:
    """Names of two namespaces that a cable joins."""
    tag = f"l2{os.getpid()}"
    names = (f"{tag}a", f"{tag}b")
    try:
        for name in names:
            _ip("netns", "add", name)
        _ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                _ip("-n", name, "link", "set", device, "up")
            if rate != "none":
                limit = ["tc", "qdisc", "add", "dev", "cable", "root", "tbf", "rate", rate, "burst", "256kb"]
                subprocess.run(["ip", "netns", "exec", name, *limit, "latency", "50ms"], check=True)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL, check=False)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def received(namespace: str) -> int:
    """Bytes that have come to a machine by the cable."""
    path = "/sys/class/net/cable/statistics/rx_bytes"
    done = subprocess.run(["ip", "netns", "exec", namespace, "cat", path], check=True, capture_output=True, text=True)
    return int(done.stdout)


# The side that is measured.


class InTurn:
    """The exchanges of machines without anything beside them."""

    def __init__(self, circle: Any) -> None:
        self._circle = circle
        self.rank, self.shares = circle.rank, circle.shares

    def start(self, x: Any, kind: str) -> Any:
        return self._circle.finish(self._circle.start(x, kind))

    def start_sum(self, x: Any, kind: str) -> Any:
        return self._circle.finish(self._circle.start_sum(x, kind))

    def finish(self, started: Any) -> Any:
        return started


def machine(arguments: argparse.Namespace) -> int:
    """Compute the pass in the ways that are asked for, one line of JSON for each."""
    os.sched_setaffinity(0, [sorted(os.sched_getaffinity(0))[arguments.machine]])
    # After the core is chosen, which decides how many threads there are.
    import mlx.core as mx

    from ltx2rt.graph.models.transformer.model import Transformer
    from ltx2rt.team.circle import Circle
    from ltx2rt.team.team import Team

    team = Team.connect(60.0)
    assert team is not None
    config, params = _model(arguments.layers)
    video, audio = _inputs(arguments.tokens)
    transformer = Transformer(config, params, mx.bfloat16)
    for line in sys.stdin:
        way, shares = json.loads(line)
        if way == "end":
            break
        circle = Circle(team, shares)
        exchanges = {WAYS[2]: circle, BY_SPEED: circle, WAYS[3]: InTurn(circle)}
        transformer.exchange = exchanges.get(way)
        if way.startswith("together"):
            team.gather(mx.zeros(1, mx.uint8), "begin")  # both have read the line
        before, waited = sum(team.traffic.received.values()), sum(team.traffic.seconds.values())
        begun, used = time.perf_counter(), time.process_time()
        velocities = transformer(video, audio)
        mx.eval(*velocities)
        seconds, processor = time.perf_counter() - begun, time.process_time() - used
        digest = hashlib.sha256()
        for own in velocities:
            assert own is not None
            digest.update(bytes(memoryview(own.view(mx.uint8))))
        result = {
            "seconds": seconds,
            "processor": processor,
            "waiting": sum(team.traffic.seconds.values()) - waited,
            "received": sum(team.traffic.received.values()) - before,
            "planned": _planned_bytes(config, arguments.tokens, shares),
            "digest": digest.hexdigest(),
        }
        print(json.dumps(result), flush=True)
    return 0


def _model(layers: int) -> tuple[Any, Any]:
    """The published width; weights of a few million random numbers, over and over, which takes seconds to make."""
    import ml_dtypes
    import mlx.core as mx
    import numpy as np

    from ltx2rt.graph.models.layers.params import Params
    from ltx2rt.graph.models.transformer.config import TransformerConfig, param_specs
    from ltx2rt.types import LinearWeight

    config = TransformerConfig.from_dict({"num_layers": layers, "frequencies_precision": "float64"})
    numbers = np.random.default_rng(7).standard_normal(4_000_037, np.float32)  # no multiple of a row
    arrays: dict[str, Any] = {}
    for spec in param_specs(config):
        scaled = numbers * (spec.shape[-1] ** -0.5 if len(spec.shape) == 2 else 0.1)
        words = np.resize(scaled.astype(ml_dtypes.bfloat16).view(np.uint16), spec.shape)
        value = mx.array(words).view(mx.bfloat16)
        if spec.name.endswith("norm.weight"):
            value = mx.ones(spec.shape, mx.bfloat16)
        arrays[spec.name] = LinearWeight("dense", value) if spec.layout == "linear" else value.astype(mx.float32)
        mx.eval(value)
    return config, Params(arrays)


def _inputs(tokens: int) -> tuple[Any, Any]:
    import mlx.core as mx
    import numpy as np

    from ltx2rt.graph.models.transformer.modality import Modality

    rng = np.random.default_rng(5)

    def modality(count: int, axes: int) -> Modality:
        context = mx.array(rng.standard_normal((1, TEXT_TOKENS, 3840)).astype(np.float32)).astype(mx.bfloat16)
        return Modality(
            latent=mx.array(rng.standard_normal((1, count, 128)).astype(np.float32)),
            sigma=np.full(1, 0.7, np.float32),
            timesteps=np.full((1, count), 0.7, np.float32),
            positions=np.sort(rng.uniform(0, 20, (1, axes, count, 2)).astype(np.float32), axis=-1),
            context=context,
        )

    return modality(tokens, 3), modality(AUDIO_TOKENS, 1)


def _planned_bytes(config: Any, tokens: int, shares: Sequence[float]) -> int:
    """What a plan says that a machine receives in one pass; requests, which are not made here, left out."""
    import mlx.core as mx

    from ltx2rt.graph.diffusion.denoising import NO_GUIDANCE
    from ltx2rt.graph.stages.denoise.machine_part import InStep, MachinePart
    from ltx2rt.graph.stages.denoise.task import DenoiseTask
    from ltx2rt.graph.stages.denoise.team_traffic import evaluation_traffic

    task = DenoiseTask(
        name="denoise",
        video=tokens,
        audio=AUDIO_TOKENS,
        tiles=(),
        masked=False,
        text=TEXT_TOKENS,
        given_contexts=0,
        prompts=1,
        evaluations=1,
        video_guider=NO_GUIDANCE,
        audio_guider=NO_GUIDANCE,
        max_batch_size=None,
        loras=(),
        dtype=mx.bfloat16,
        activations="float",
        advice="",
        part=MachinePart(0, (tuple(range(len(shares))),), tuple(shares), config.num_layers),
    )
    received = evaluation_traffic(config, task, InStep("together", 1)).received
    return sum(nbytes for kind, nbytes in received.items() if kind != "messages")


if __name__ == "__main__":
    sys.exit(main())
