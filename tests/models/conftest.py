"""What tests of networks share: numbers for their weights, and PyTorch in an interpreter apart."""

import math
import subprocess
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxch5.models.registry import create_model
from jaxch5.util.libraries import variable


@pytest.fixture(scope="session")
def random_variables():
    """A function: variables of a ResNet, random, of which none is what a new network has."""

    def draw(arch, num_classes=3, head="linear", seed=0):
        rng = np.random.default_rng(seed)

        def leaf(path, shape):
            name = path[-1].key
            if name == "var":
                return rng.uniform(0.5, 1.5, shape).astype(np.float32)
            values = rng.standard_normal(shape, np.float32)
            if name == "kernel":
                return values / np.float32(math.sqrt(np.prod(shape[:-1])))
            return np.float32(0.1) * values + np.float32(name == "scale")

        init = partial(create_model(arch, num_classes, head).init, train=False)
        shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
        return jax.tree_util.tree_map_with_path(lambda path, like: leaf(path, like.shape), shapes)

    return draw


@pytest.fixture(scope="session")
def peer():
    """A function: runs a program in the interpreter that JAXCH5_PEER_PYTHON names."""
    python = variable("JAXCH5_PEER_PYTHON")
    if python is None:
        pytest.skip("JAXCH5_PEER_PYTHON names no interpreter with torchvision, timm and fastai")
    specs = "map(importlib.util.find_spec, ('torch', 'torchvision', 'timm', 'fastai'))"
    has_all = f"import importlib.util, sys; sys.exit(not all({specs}))"
    if subprocess.run([python, "-c", has_all], check=False).returncode:
        pytest.skip(f"{python} has no torch, torchvision, timm or fastai")

    def run(program, folder):
        done = subprocess.run(
            [python, "-c", program], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    return run
