"""Counts the operations, activations and messages of a training step, for docs/scaling.md.

    python benchmarks/scaling.py

Nothing is timed. Operations are counted by a formula and by XLA's own analysis; messages are
counted in the program that is compiled for eight devices, which a CPU simulates.
"""

import re
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxch5.data.block import DataBlock
from jaxch5.data.source import from_arrays
from jaxch5.data.split import random_split
from jaxch5.learner import vision_learner
from jaxch5.losses import cross_entropy
from jaxch5.models import convolution
from jaxch5.models.registry import create_model

SIZE, CLASSES = 224, 1000
BYTES = {"f32": 4, "bf16": 2, "pred": 1, "s32": 4, "u32": 4}


def shapes(model, size):
    """Returns the shapes of the variables and the shapes of every module's outputs."""
    x = jnp.zeros((1, size, size, 3))
    variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), x)
    run = partial(model.apply, train=False, capture_intermediates=True, mutable=["intermediates"])
    _, captured = jax.eval_shape(run, variables, x)
    return variables, dict(jax.tree_util.tree_leaves_with_path(captured["intermediates"]))


def formula(arch):
    """Counts what a network computes and contains, by a formula.

    Returns:
        Operations of a forward pass, operations of a forward and a backward pass, values that the
        convolutions compute, weights, and running statistics.
    """
    model = create_model(arch, CLASSES)
    variables, outputs = shapes(model, SIZE)
    kernels = {
        path[:-1]: leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"])
        if path[-1].key == "kernel"
    }
    forward, values = 0, 0
    for path, leaf in outputs.items():
        if (kernel := kernels.get(path[:-2])) is not None:
            # Each value needs a multiplication and an addition for every weight of its filter.
            forward += 2 * kernel.size // kernel.shape[-1] * leaf.size
            values += leaf.size if kernel.ndim == 4 else 0
    first = kernels[next(path for path in kernels if path[0].key == "conv1")]
    stem = 2 * first.size * (SIZE // 2) ** 2
    weights = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    statistics = sum(leaf.size for leaf in jax.tree.leaves(variables["batch_stats"]))
    # The gradient of the weights takes as many operations as the forward pass, and so does the
    # gradient of the layers' inputs. That of the pictures, the stem's inputs, is not computed.
    return forward, 3 * forward - stem, values, weights, statistics


def counted(arch):
    """Counts the operations of the forward pass, and those of both passes, by XLA's analysis."""
    model = create_model(arch, CLASSES)
    variables, _ = shapes(model, SIZE)
    x = jax.ShapeDtypeStruct((8, SIZE, SIZE, 3), jnp.float32)

    def loss(params, batch_stats, x):
        state = {"params": params, "batch_stats": batch_stats}
        logits, _ = model.apply(state, x, train=True, mutable=["batch_stats"])
        return cross_entropy(logits, jnp.zeros(8, jnp.int32))

    arguments = variables["params"], variables["batch_stats"], x
    both = loss, jax.value_and_grad(loss)
    return [jax.jit(f).lower(*arguments).cost_analysis()["flops"] / 8 for f in both]


def messages(arch, bn):
    """Counts the all-reduces in a step that is compiled for eight devices.

    Returns:
        The number of all-reduces, their bytes in all, and the bytes of the largest one.
    """
    # With smaller pictures, the compiler would leave out weights that only multiply padding.
    images = np.zeros((80, 96, 96, 3), np.uint8)
    source = from_arrays(images, np.arange(80) % 2, ["a", "b"])
    data = DataBlock(source, random_split(0.2), presize=96, size=96).load(16)
    learn = vision_learner(data, arch, "none", head="linear", bn=bn)
    sizes = []
    text = learn._steps.train.as_text()
    for result in re.findall(r"= (.*?) all-reduce(?:-start)?\(", text):
        parts = re.findall(r"(\w+)\[([\d,]*)\]", result)
        sizes.append(
            sum(
                BYTES[kind] * int(np.prod([int(n) for n in dims.split(",") if n]))
                for kind, dims in parts
            )
        )
    return len(sizes), sum(sizes), max(sizes)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    # This makes convolutions take the form that is used on accelerators. The form used on a CPU has
    # fewer multiplications and larger messages.
    convolution.MANY_TILES = sys.maxsize
    for arch in ("resnet18", "resnet50"):
        forward, both, values, weights, statistics = formula(arch)
        print(
            f"{arch}: {weights:,} weights, {statistics:,} statistics, {values:,} values a picture"
        )
        xla = counted(arch)
        print(f"  forward {forward / 1e9:.2f} GFLOP (XLA {xla[0] / 1e9:.2f})", end="; ")
        print(f"and back {both / 1e9:.2f} GFLOP (XLA {xla[1] / 1e9:.2f})")
    for bn in ("local", "global"):
        count, total, largest = messages("resnet18", bn)
        print(
            f"resnet18, {bn}: {count} all-reduces of {total:,} bytes, the largest {largest:,}",
            flush=True,
        )
