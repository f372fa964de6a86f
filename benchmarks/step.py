"""Training speed against PyTorch: pictures a second of a ResNet's step, in turn.

A step is forward, cross-entropy, backward and Adam's update, from the same weights on the same
pictures; both sides' first losses are compared before anything is timed. The peer is torchvision's
ResNet in eager PyTorch, in the better of its two memory layouts; it runs in the interpreter that
JAXCH5_PEER_PYTHON names (made from requirements.txt), because the two are not installed together.
Run it on an idle machine: threads that wait for each other, as PyTorch's do, lose far more to other
work than ours, and the ratio then flatters us. `load_before` is the load average at the start.

    JAXCH5_PEER_PYTHON=~/peer/bin/python python benchmarks/step.py --arch resnet50 --size 128
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from peer import Peer, peer_python, show, spread

from jaxch5.losses import cross_entropy
from jaxch5.models.resnet import ARCHITECTURES, create_model
from jaxch5.models.weights import export_state_dict
from jaxch5.training.compiler import compiler_options

NUM_CLASSES = 1000
ADAM = {"lr": 1e-4, "eps": 1e-8}
LAYOUTS = ("channels_last", "contiguous")


class Ours:
    """jaxch5's model with optax's Adam; the state is donated."""

    def __init__(self, arch: str, pictures: np.ndarray, labels: np.ndarray) -> None:
        self.batch = jax.device_put((pictures, labels))
        model = create_model(arch, NUM_CLASSES)
        optimizer = optax.adam(ADAM["lr"], eps=ADAM["eps"])
        init = jax.jit(partial(model.init, train=False))
        self.variables = dict(init(jax.random.key(0), self.batch[0][:1]))
        self.state = (self.variables, jax.jit(optimizer.init)(self.variables["params"]))
        self.state_dict = export_state_dict(self.variables, arch)

        def step(state: Any, batch: Any) -> Any:
            variables, opt_state = state
            pictures, labels = batch

            def loss_of(params: Any) -> Any:
                logits, updated = model.apply(
                    {**variables, "params": params}, pictures, train=True, mutable=["batch_stats"]
                )
                return cross_entropy(logits, labels), updated

            (loss, updated), grads = jax.value_and_grad(loss_of, has_aux=True)(variables["params"])
            updates, opt_state = optimizer.update(grads, opt_state)
            params = optax.apply_updates(variables["params"], updates)
            return ({"params": params, **updated}, opt_state), loss

        begin = time.perf_counter()
        jitted = jax.jit(step, donate_argnums=0, compiler_options=compiler_options())
        self.compiled = jitted.lower(self.state, self.batch).compile()
        self.compile_seconds = time.perf_counter() - begin

    def step(self) -> jax.Array:
        self.state, loss = self.compiled(self.state, self.batch)
        return loss

    def seconds(self, steps: int) -> float:
        begin = time.perf_counter()
        for _ in range(steps):
            loss = self.step()
        loss.block_until_ready()
        return time.perf_counter() - begin


def check_same(ours: list[float], peer: dict[str, list[float]]) -> None:
    """The first loss compares the forward passes, the second one the gradients and Adam."""
    for layout, losses in peer.items():
        for mine, theirs, tolerance in zip(ours, losses, (1e-4, 1e-2), strict=True):
            if abs(mine - theirs) > tolerance * abs(theirs):
                raise SystemExit(
                    f"the sides disagree: losses {ours}, the peer's {losses} ({layout})"
                )


def measure(
    arch: str, size: int, batch: int, turns: int, python: str, device: str
) -> dict[str, Any]:
    """Pictures a second of both sides and their ratio, over `turns` alternations."""
    load_before = os.getloadavg()[0]
    rng = np.random.default_rng(0)
    pictures = rng.standard_normal((batch, size, size, 3), np.float32)
    labels = rng.integers(NUM_CLASSES, size=batch).astype(np.int32)
    ours = Ours(arch, pictures, labels)
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/weights.npz", **ours.state_dict)
        np.savez(f"{folder}/inputs.npz", pictures=pictures, labels=labels)
        peer = Peer(python, Path(__file__).with_name("torch_step.py"))
        losses = peer.ask(
            arch=arch,
            num_classes=NUM_CLASSES,
            weights=f"{folder}/weights.npz",
            inputs=f"{folder}/inputs.npz",
            device=device,
            **ADAM,
        )
        check_same([float(ours.step()) for _ in range(2)], losses)
        # A turn of about two seconds, and the slow first ones behind us.
        steps = max(2, round(2 / ours.seconds(1)))

        def peer_seconds(layout: str, steps: int) -> float:
            return peer.ask(layout=layout, steps=steps)["seconds"]

        for layout in LAYOUTS:
            peer_seconds(layout, 1)
        rates: dict[str, list[float]] = {"ours": [], **{layout: [] for layout in LAYOUTS}}
        for _ in range(turns):
            rates["ours"].append(steps * batch / ours.seconds(steps))
            for layout in LAYOUTS:
                rates[layout].append(steps * batch / peer_seconds(layout, steps))
        peer.close()
    best = max(LAYOUTS, key=lambda layout: statistics.median(rates[layout]))
    ratios = [mine / theirs for mine, theirs in zip(rates["ours"], rates[best], strict=True)]
    return {
        "ours": spread(rates["ours"]),
        "peer": {**spread(rates[best]), "layout": best},
        "ratio": spread(ratios),
        "compile_seconds": round(ours.compile_seconds, 1),
        "load_before": round(load_before, 2),
        "steps_a_turn": steps,
        "turns": turns,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--arch", choices=ARCHITECTURES, default="resnet50")
    parser.add_argument("--size", type=int, default=128, help="side of the pictures, pixels")
    parser.add_argument("--batch", type=int, default=16, help="pictures a step")
    parser.add_argument("--turns", type=int, default=5, help="alternations of the two sides")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    python = peer_python(required=True)
    jax.config.update("jax_platforms", arguments.device)
    result = measure(
        arguments.arch,
        arguments.size,
        arguments.batch,
        arguments.turns,
        python,
        arguments.device,
    )
    if arguments.json:
        print(json.dumps(result))
        return
    for side in ("ours", "peer"):
        print(f"{side}: {show(result[side], 1)} pictures/s")
    print(f"load average before: {result['load_before']}")
    print(f"ratio: {show(result['ratio'])}, {result['turns']} turns")
    print(
        f"the peer's layout: {result['peer']['layout']}; compiled in {result['compile_seconds']} s"
    )


if __name__ == "__main__":
    main()
