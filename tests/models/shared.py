"""Helpers for tests of networks; some of these tests run as programs, which have no fixtures."""

import math
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxch5.errors import WeightsError
from jaxch5.models.registry import spec_of

SEED = 7


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def of_each(forms, *arguments):
    """Returns each form's result and gradients for one cotangent, from one compiled program."""

    def run(*arguments):
        outcomes = []
        for form in forms:
            result, pull = jax.vjp(form, *arguments)
            cotangent = normal(2, *result.shape)
            outcomes.append((result, *pull(cotangent)))
        return outcomes

    return jax.jit(run)(*arguments)


def fill(name, shape):
    """Returns weights that depend only on the name and shape that PyTorch gives them."""
    rng = np.random.default_rng(zlib.crc32(name.encode()) + SEED)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if name.endswith("running_mean"):
        return (0.1 * rng.standard_normal(shape)).astype(np.float32)
    if len(shape) == 1:
        noise = 0.1 * rng.standard_normal(shape)
        return (noise + (1.0 if name.endswith("weight") else 0.0)).astype(np.float32)
    return (rng.standard_normal(shape) / math.sqrt(np.prod(shape[1:]))).astype(np.float32)


def pictures(size=96):
    nchw = np.random.default_rng(SEED).standard_normal((4, 3, size, size)).astype(np.float32)
    return jnp.asarray(nchw.transpose(0, 2, 3, 1))


def run_alone(file, arch, environment=None):
    """Runs a test's module as a program in an environment, which may set XLA's flags."""
    command = [sys.executable, "-m", f"tests.models.{Path(file).stem}", arch]
    subprocess.run(command, cwd=Path(__file__).parents[2], env=environment, check=True)


def assert_gradients(arch, grads, words_of, expected, rel):
    """Compares the norm of the gradients of each part of a network with the expected norm.

    A parameter's part is given by the first `words_of(words)` words of its name in PyTorch.
    """
    squares = {}
    for path, leaf in flatten_dict(grads).items():
        words = spec_of(arch).names.of(("params", *path)).split(".")
        part = ".".join(words[: words_of(words)])
        squares[part] = squares.get(part, 0.0) + float(jnp.sum(leaf**2))
    assert squares.keys() == expected.keys()
    for part, norm in expected.items():
        assert math.sqrt(squares[part]) == pytest.approx(norm, rel=rel), part


def assert_gradients_of_half(dtype, model_of, params, x, statistics=None):
    """Compares each parameter's gradient in a half precision with that in float32.

    Weights, gradients and logits are float32. The error of a gradient or of the logits, relative to
    its norm, is a few roundings of the type: about 1 to 4 eps for a network of a few blocks. In a
    ResNet, for which `statistics` are given, a rounding may also change which values a ReLU or a
    max-pool lets through. About one value in 1 / eps is affected, which changes the norm of the
    gradient by about the square root of eps.
    """
    eps = float(jnp.finfo(dtype).eps)
    most = 8 * eps if statistics is None else 6 * math.sqrt(eps)
    others = {} if statistics is None else {"batch_stats": statistics}

    def of_total(dtype):
        def total(params):
            variables = {"params": params, **others}
            logits, _ = model_of(dtype).apply(variables, x, train=True, mutable=["batch_stats"])
            return jnp.sum(logits**2), logits

        return jax.jit(jax.grad(total, has_aux=True))(params)

    found, expected = of_total(dtype), of_total(jnp.float32)
    pairs = zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True)
    for (path, leaf), full in pairs:
        assert leaf.dtype == jnp.float32
        error = float(jnp.linalg.norm(leaf - full) / jnp.linalg.norm(full))
        assert error <= most, jax.tree_util.keystr(path)


def refusal(read, *arguments, **named):
    """Returns the message of the WeightsError that a call must raise, which must be one line."""
    with pytest.raises(WeightsError) as raised:
        read(*arguments, **named)
    line = str(raised.value)
    assert len(line.splitlines()) == 1
    return line


def assert_equal(some, others):
    assert jax.tree.structure(some) == jax.tree.structure(others)
    jax.tree.map(np.testing.assert_array_equal, some, others)
