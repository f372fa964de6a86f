"""Compares the training speed of a network with PyTorch's, in pictures per second.

A step consists of a forward pass, cross-entropy, a backward pass and Adam's update. Both sides
begin with the same weights and train on the same pictures, and their first losses are compared
before anything is timed. The sides then take turns. The peer is the same network from torchvision
or timm (see `library_of`) in PyTorch with a fused Adam. It is timed in eager mode and with
`torch.compile`, each in both memory layouts, and our speed is divided by that of the fastest of
these. Both sides compute in `--precision`, PyTorch by autocast; in fp16 neither side scales its
loss. The peer runs in the interpreter that JAXCH5_PEER_PYTHON names (an environment installed from
requirements.txt), because the two sides are not installed in the same environment.

Run this on an idle machine. If other programs run, threads that wait for each other, as PyTorch's
do, are slowed down far more than ours, and the ratio then flatters us. `load_before` is the load
average at the start.

    JAXCH5_PEER_PYTHON=~/peer/bin/python python benchmarks/step.py --arch resnet50 --size 128
"""

from __future__ import annotations

import argparse
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optax
from bare import BareStep
from common import PLATFORMS, arguments_of, best, in_turn, ratio, spread, tell, use_device
from peer import Peer, peer_python

from jaxch5.models.registry import architectures, create_model, spec_of
from jaxch5.models.weights import export_state_dict
from jaxch5.training.precision import dtype_of

NUM_CLASSES = 1000
# These are the names that torch_step.py uses.
LAYOUTS = ("channels_last", "contiguous")
ADAM = {"lr": 1e-4, "eps": 1e-8}
# By how much our loss may differ from the peer's, as a share of the peer's. In the first step only
# the forward passes matter; in the second, the gradients and Adam matter too. A GPU multiplies
# float32 numbers with fewer bits.
TOLERANCES = {("cpu", "fp32"): (1e-4, 1e-2), ("gpu", "fp32"): (5e-3, 5e-2)}
HALF = (3e-2, 1e-1)


def check_same(
    ours: list[float], peer: dict[str, list[float]], tolerances: tuple[float, float]
) -> None:
    """Exits if the sides' losses in the first two steps differ by more than the tolerances."""
    for way, losses in peer.items():
        for mine, theirs, tolerance in zip(ours, losses, tolerances, strict=True):
            # With a NaN loss this comparison is false, so `not` makes it exit.
            if not abs(mine - theirs) <= tolerance * abs(theirs):
                raise SystemExit(f"the sides disagree: losses {ours}, the peer's {losses} ({way})")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Times both sides alternately; returns their pictures per second, and the ratio of these."""
    load_before = os.getloadavg()[0]
    size, batch, arch = arguments.size, arguments.batch, arguments.arch
    rng = np.random.default_rng(0)
    pictures = rng.standard_normal((batch, size, size, 3), np.float32)
    labels = rng.integers(NUM_CLASSES, size=batch).astype(np.int32)
    model = create_model(arch, NUM_CLASSES, dtype=dtype_of(arguments.precision))
    adam = optax.adam(ADAM["lr"], eps=ADAM["eps"])
    options = dict(option.split("=", 1) for option in arguments.options)
    ours = BareStep(model, adam, pictures, labels, options)
    facts = {
        "unit": "pictures a second",
        "compile_seconds": round(ours.compile_seconds, 1),
        "load_before": round(load_before, 2),
        "options": arguments.options,
    }
    if arguments.alone:
        steps = steps_a_turn(ours, arguments.seconds)
        rates = in_turn({"ours": partial(ours.pictures_a_second, steps)}, arguments.turns)
        return {"ours": spread(rates["ours"]), **facts}
    python = peer_python(required=True)
    assert python is not None
    script = Path(__file__).with_name("torch_step.py")
    with tempfile.TemporaryDirectory() as folder, Peer(python, script) as peer:
        np.savez(f"{folder}/weights.npz", **export_state_dict(ours.variables, arch))
        np.savez(f"{folder}/inputs.npz", pictures=pictures, labels=labels)
        begun = peer.ask(
            arch=arch,
            library=arguments.library or library_of(arch),
            num_classes=NUM_CLASSES,
            weights=f"{folder}/weights.npz",
            inputs=f"{folder}/inputs.npz",
            device=PLATFORMS[arguments.device],
            precision=arguments.precision,
            modes=arguments.modes,
            layouts=arguments.layouts,
            **ADAM,
        )
        tolerances = TOLERANCES.get((arguments.device, arguments.precision), HALF)
        check_same([float(ours()) for _ in range(2)], begun["losses"], tolerances)
        steps = steps_a_turn(ours, arguments.seconds)
        sides = {"ours": partial(ours.pictures_a_second, steps)}
        for way in begun["losses"]:
            sides[way] = partial(peer.ask, way=way, steps=steps)
        rates = in_turn(sides, arguments.turns)
    mine = rates.pop("ours")
    way = best(rates)
    return {
        "ours": spread(mine),
        "peer": {**spread(rates[way]), "way": way},
        "ratio": ratio(mine, rates[way]),
        "all_peers": {name: spread(values) for name, values in rates.items()},
        "failed": begun["failed"],
        **facts,
        "steps_a_turn": steps,
        "turns": arguments.turns,
    }


def library_of(arch: str) -> str:
    """Returns torchvision if our variables are named after its weights, and timm otherwise."""
    names = spec_of(arch).names
    return "torchvision" if names and "torchvision" in names.whose else "timm"


def steps_a_turn(ours: BareStep, seconds: float) -> int:
    """Returns how many steps fill a turn, estimated after the first steps, which are slow."""
    ours.pictures_a_second(2)
    return max(2, round(seconds * ours.pictures_a_second(2) / ours.size))


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--arch", choices=architectures(), default="resnet50")
    parser.add_argument(
        "--library",
        choices=("torchvision", "timm"),
        help="library of the peer's network (default: torchvision if our variables are named after "
        "its weights, and timm otherwise)",
    )
    parser.add_argument("--size", type=int, default=128, help="side of the pictures, pixels")
    parser.add_argument("--batch", type=int, default=16, help="pictures per step")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a turn (default: ~2)")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument(
        "--modes", nargs="+", choices=("eager", "compile"), default=["eager", "compile"]
    )
    parser.add_argument(
        "--layouts",
        nargs="+",
        choices=LAYOUTS,
        default=LAYOUTS,
        help="memory layouts in which the peer is timed (default: both)",
    )
    parser.add_argument(
        "--options", nargs="+", default=[], metavar="NAME=VALUE", help="XLA options for our side"
    )
    parser.add_argument("--alone", action="store_true", help="time only our side")
    parser.add_argument(
        "--give-back", action="store_true", help="give our side new memory for each step"
    )
    arguments = parser.parse_args()
    use_device(arguments.device, keep_memory=not arguments.give_back)
    tell(measure(arguments), arguments.json)


if __name__ == "__main__":
    main()
