"""A GPU trains like a CPU, although parts of the code have a different implementation there.

These tests need a GPU; on a machine that has one, `benchmarks/gpu.sh tests` runs them.
"""

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from jaxch5.augmentation.policy import aug_transforms
from jaxch5.batch import Batch
from jaxch5.losses import cross_entropy
from jaxch5.models.registry import create_model
from jaxch5.training.compiler import compiler_options
from jaxch5.training.precision import dtype_of
from jaxch5.training.recipe import Recipe
from jaxch5.training.state import init_state
from jaxch5.training.step import make_train_step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(jax.default_backend() != "gpu", reason="the default device is no GPU"),
]


def trained(device, precision, steps=4, options=None):
    """Trains a ResNet-18 on augmented noise for some steps; returns the losses and the weights.

    The seed is always the same.
    """
    rng = np.random.default_rng(0)
    index = np.arange(16, dtype=np.int32)
    image = rng.integers(0, 256, (16, 72, 108, 3), dtype=np.uint8)
    frame = np.tile(np.diag([108.0, 72.0, 1.0]).astype(np.float32), (16, 1, 1))
    with jax.default_device(device):
        model = create_model("resnet18", 2, dtype=dtype_of(precision))
        # With a rate this low, rounding errors do not grow from step to step.
        recipe = Recipe(precision=precision, loss=cross_entropy)
        optimizer, key = recipe.make_optimizer(1e-5), jax.random.key(0)
        state = init_state(model, recipe, 64, key, optimizer)
        policy = aug_transforms(min_scale=0.75)
        step = make_train_step(model, recipe, policy, 64, optimizer=optimizer)
        step = jax.jit(step, compiler_options=options)
        batch = jax.device_put(Batch(image, frame, index % 2, index, index >= 0))
        found = []
        for _ in range(steps):
            state, metrics = step(state, batch, key)
            found.append(float(metrics["loss"]))
        return found, jax.device_get(state.variables)


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("fp32", 0.02), ("bf16", 0.05), ("fp16", 0.05)]
)
def test_a_gpu_trains_as_a_cpu_does(precision, tolerance):
    """The losses on a GPU, in each precision, are close to those on a CPU in fp32.

    Augmentation, convolutions and pooling are implemented differently on the two.
    """
    (cpu, *_), (gpu, *_) = jax.devices("cpu"), jax.devices("gpu")
    of_gpu, of_cpu = trained(gpu, precision)[0], trained(cpu, "fp32")[0]
    np.testing.assert_allclose(of_gpu, of_cpu, atol=tolerance)


@pytest.fixture
def compiled_each_time():
    """Turns off the cache of compiled programs, so that kernels are timed and chosen each time."""
    jax.config.update("jax_enable_compilation_cache", False)
    reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    reset_cache()


@pytest.mark.usefixtures("compiled_each_time")
def test_initial_weights_are_the_same_bits_each_time():
    """A seed gives the same initial weights each time.

    In an earlier version, the last bit differed in 12 of the 8,192 weights of a layer.
    """
    first, *others = (trained(jax.devices("gpu")[0], "fp32", steps=0)[1] for _ in range(3))
    for other in others:
        jax.tree.map(np.testing.assert_array_equal, first, other)


@pytest.mark.usefixtures("compiled_each_time")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_deterministic_training_gives_the_same_bits_twice(precision):
    """With the options of `--deterministic`, training twice gives the same losses and weights.

    Without these options, some kernels add in an order that changes from run to run.
    """
    gpu, options = jax.devices("gpu")[0], compiler_options(deterministic=True)
    (losses, weights), (again, same) = (trained(gpu, precision, options=options) for _ in range(2))
    assert losses == again
    jax.tree.map(np.testing.assert_array_equal, weights, same)


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_options_for_the_compiler_are_known_to_it(deterministic):
    options = compiler_options(deterministic)
    assert options or not deterministic
    compiled = jax.jit(lambda x: x + 1, compiler_options=options).lower(1.0).compile()
    assert float(compiled(1.0)) == 2.0
