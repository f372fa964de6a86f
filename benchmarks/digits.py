"""Compares jaxch5's default run with fastai: accuracy on held-out digits, and seconds per run.

Our side runs `jaxch5 train` in a new process for each seed. The first process begins with an empty
cache of compiled programs, which it fills for the others. The peer is fastai's `vision_learner`,
which trains a ResNet-18 from scratch on the same pictures and the same split. It trains for five
epochs in one cycle with a highest learning rate of 3e-3. The pictures are presized to 40 pixels,
the network's input is 32 by 32 pixels, and there are no flips. The peer runs in the interpreter
that JAXCH5_PEER_PYTHON names (an environment installed from requirements.txt).

    JAXCH5_PEER_PYTHON=~/peer/bin/python python benchmarks/digits.py --seeds 5
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments_of, tell
from peer import peer_python

from jaxch5.data.source import digits
from jaxch5.data.split import random_split


def run_ours(seed: int, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "jaxch5.train", "--json", "--seed", str(seed)]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")}
    began = time.perf_counter()
    ended = subprocess.run(
        [*command, "--workdir", str(folder / f"run{seed}")],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
    )
    seconds = time.perf_counter() - began
    return {"accuracy": json.loads(ended.stdout)["accuracy"], "seconds": seconds}


def run_peer(seed: int, file: Path, python: str) -> dict[str, float]:
    script = Path(__file__).with_name("fastai_digits.py")
    began = time.perf_counter()
    ended = subprocess.run(
        [python, str(script), str(file), str(seed)], stdout=subprocess.PIPE, check=True
    )
    seconds = time.perf_counter() - began
    return {"accuracy": json.loads(ended.stdout.splitlines()[-1])["accuracy"], "seconds": seconds}


def summary(runs: list[dict[str, float]]) -> dict[str, Any]:
    accuracies = [run["accuracy"] for run in runs]
    return {
        "accuracy": {
            "mean": statistics.mean(accuracies),
            "min": min(accuracies),
            "all": [round(accuracy, 4) for accuracy in accuracies],
        },
        "seconds": {
            "first": runs[0]["seconds"],
            "others": statistics.median(run["seconds"] for run in runs[1:] or runs),
        },
    }


def main() -> None:
    parser = arguments_of(__doc__, turns=None, device=False)
    parser.add_argument("--seeds", type=int, default=5, help="runs of our side (default: 5)")
    parser.add_argument("--peer-seeds", type=int, default=5, help="runs of the peer (default: 5)")
    arguments = parser.parse_args()
    python = peer_python()

    ours, peer = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = digits()
        train, valid = random_split()(source)
        images = np.stack([source.read(item) for item in range(len(source))])
        file = folder / "digits.npz"
        np.savez(file, images=images, labels=source.labels, train=train, valid=valid)
        for seed in range(arguments.seeds):
            ours.append(run_ours(seed, folder))
            if python and seed < arguments.peer_seeds:
                peer.append(run_peer(seed, file, python))
            print(seed, ours[-1], peer[seed:] or "", file=sys.stderr)

    document = {"ours": summary(ours), "peer": summary(peer) if peer else None}
    tell(document, arguments.json)


if __name__ == "__main__":
    main()
