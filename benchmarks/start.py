"""From the start of the process to its first training step, or a fine-tuned network; and fastai.

Three sides in turn, each a process of its own: ours with no compiled program kept (cold), ours with
what an earlier process kept (warm), and fastai's `vision_learner`. All import, read the folder,
build the network, take a batch of augmented photographs and train one step with it; or, with
`--fine-tune EPOCHS`, fine-tune it, ours with its report.

    JAXCH5_PEER_PYTHON=~/peer/bin/python python benchmarks/start.py --path ~/photos
"""

from __future__ import annotations

import argparse
import json
import math
import os
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
    """Until the process says the loss that it came to; it has to be a number."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - began
    if not line or not math.isfinite(json.loads(line)["loss"]):
        raise SystemExit(f"{command[1]} did not train a step")
    return seconds


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each side over turns, and how many times as long the peer takes."""
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
        # The first turn reads packages from the disk, and fills the warm cache.
        seconds = in_turn(sides, arguments.turns)
    return {
        "unit": "seconds",
        **{name: spread(values) for name, values in seconds.items()},
        "ratio": ratio(seconds["peer"], seconds["warm"]),
        "ratio_cold": ratio(seconds["peer"], seconds["cold"]),
        **facts(learn),
        "turns": arguments.turns,
    }


def main() -> None:
    parser = arguments_of(__doc__, turns=3, path=True)
    add_sizes(parser)
    parser.add_argument("--fine-tune", type=int, metavar="EPOCHS", help="not one step, but so many")
    arguments = parser.parse_args()
    use_device(arguments.device)
    tell(measure(arguments), arguments.json)


if __name__ == "__main__":
    main()
