"""Compares the time from a process's start to its first training step, or to a fine-tuned network.

Three sides take turns, each in its own process: our side without compiled programs from earlier
processes (cold), our side with the compiled programs that an earlier process kept (warm), and
fastai's `vision_learner`. All of them import their packages, read the folder, build the network and
train it for one step on a batch of augmented photographs. With `--fine-tune EPOCHS` they fine-tune
the network instead, and our side also writes its report.

    JAXCH5_PEER_PYTHON=~/peer/bin/python python benchmarks/start.py --path ~/photos

With `--parts` the benchmark shows instead where our time goes, cold and warm: in an entire run on
the digits or, with `--path`, in one epoch of photographs or, with `--predict RUN`, in predicting
one picture.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import (
    PLATFORMS,
    arguments_of,
    find_files,
    in_turn,
    ratio,
    same,
    spread,
    tell,
    use_device,
)
from ours_learner import add_sizes, facts, learner_of, request_of, settings_of
from peer import Peer, peer_python

HERE = Path(__file__).parent


def seconds_to_loss(command: list[str], environment: dict[str, str]) -> float:
    """Measures the time until the process reports its loss, which has to be finite."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - began
    if not line or not math.isfinite(json.loads(line)["loss"]):
        raise SystemExit(f"{command[1]} did not train a step")
    return seconds


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures the seconds that each side takes, and the peer's seconds divided by ours."""
    find_files(arguments.path)
    python = peer_python(required=True)
    assert python is not None
    settings = settings_of(arguments, "off")
    epochs = [str(arguments.fine_tune)] if arguments.fine_tune else []
    command = "--fine-tune" if epochs else "--first-step"
    ours = [sys.executable, str(HERE / "ours_learner.py"), command, arguments.device]
    ours += [json.dumps(settings), *epochs]
    learn = learner_of(settings)
    request = request_of(learn, arguments, PLATFORMS[arguments.device])
    script = HERE / "fastai_learner.py"
    with Peer(python, script) as peer:
        same("the work", facts(learn), peer.ask(**request))
    peers = [python, str(script), command, json.dumps(request), *epochs]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def with_cache(cache: Path) -> float:
            environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
            return seconds_to_loss(ours, environment)

        def cold() -> float:
            return with_cache(Path(tempfile.mkdtemp(dir=folder)))

        sides = {
            "cold": cold,
            "warm": lambda: with_cache(folder / "warm"),
            "peer": lambda: seconds_to_loss(peers, dict(os.environ)),
        }
        # The first turn, which is not counted, reads packages from disk and fills the warm cache.
        seconds = in_turn(sides, arguments.turns)
    return {
        "unit": "seconds",
        **{name: spread(values) for name, values in seconds.items()},
        "ratio": ratio(seconds["peer"], seconds["warm"]),
        "ratio_cold": ratio(seconds["peer"], seconds["cold"]),
        **facts(learn),
        "turns": arguments.turns,
    }


def parts(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures the seconds of each part of a start, cold and warm, as medians over the turns."""
    request: dict[str, Any] = {"settings": {"model": {"weights": "none"}}}
    if arguments.predict:
        request = {"predict": str(arguments.predict), "picture": find_files(arguments.path)[0]}
    elif arguments.path:
        request = {"settings": {**settings_of(arguments, "off"), "fit": {"epochs": 1}}}
    command = [sys.executable, str(HERE / "start_parts.py"), json.dumps(request)]

    def run(cache: Path) -> dict[str, Any]:
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
        ended = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
        found: dict[str, Any] = json.loads(ended.stdout)
        return found

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(folder / "warm")
        sides = {"cold": lambda turn: folder / f"cold{turn}", "warm": lambda turn: folder / "warm"}
        found: dict[str, list[Any]] = {side: [] for side in sides}
        for turn in range(arguments.turns):
            for side, cache in sides.items():
                found[side].append(run(cache(turn)))
    return {"unit": "seconds", **{side: _medians(runs) for side, runs in found.items()}}


def _medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    def middle(values: list[float]) -> float:
        return round(statistics.median(values), 2)

    phases = {
        name: [middle([run["phases"][name][column] for run in runs]) for column in (0, 1)]
        for name in runs[0]["phases"]
    }
    total = [
        middle([sum(phase[column] for phase in run["phases"].values()) for run in runs])
        for column in (0, 1)
    ]
    names = sorted({name for run in runs for name in run["jax"]})
    of_jax = {name: middle([run["jax"].get(name, 0.0) for run in runs]) for name in names}
    return {"clock, processor": {**phases, "in all": total}, "of jax, clock": of_jax}


def main() -> None:
    parser = arguments_of(__doc__, turns=3, path=True)
    add_sizes(parser)
    parser.add_argument(
        "--fine-tune", type=int, metavar="EPOCHS", help="fine-tune instead of one step"
    )
    parser.add_argument("--parts", action="store_true", help="show where our time goes")
    parser.add_argument(
        "--predict", type=Path, metavar="RUN", help="with --parts: time a prediction"
    )
    arguments = parser.parse_args()
    if arguments.parts:
        tell(parts(arguments), arguments.json)
        return
    use_device(arguments.device)
    tell(measure(arguments), arguments.json)


if __name__ == "__main__":
    main()
