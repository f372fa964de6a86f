"""Training in half precision keeps its state in float32, and skips steps that overflow."""

import os
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxch5.batch import Batch
from jaxch5.errors import ConfigError
from jaxch5.losses import cross_entropy
from jaxch5.training.precision import dtype_of
from jaxch5.training.recipe import Recipe
from jaxch5.training.state import init_state
from jaxch5.training.step import make_train_step


class Small(nn.Module):
    """A network that computes in the given type, and whose output is float32."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.Conv(4, (3, 3), dtype=self.dtype)(x))
        x = nn.BatchNorm(use_running_average=not train, dtype=self.dtype)(x).mean((1, 2))
        return nn.Dense(2, dtype=self.dtype)(x).astype(jnp.float32)


def batch():
    image = np.random.default_rng(0).integers(0, 256, (4, 8, 12, 3), dtype=np.uint8)
    index = jnp.arange(4, dtype=jnp.int32)
    frame = jnp.tile(jnp.diag(jnp.array([12.0, 8.0, 1.0])), (4, 1, 1))
    return Batch(jnp.asarray(image), frame, index % 2, index, index >= 0)


FLOAT16 = pytest.param("fp16", marks=pytest.mark.float16)


def trained(precision, loss=cross_entropy, steps=1, **settings):
    recipe = Recipe(precision=precision, loss=loss, **settings)
    model, optimizer = Small(dtype_of(precision)), recipe.make_optimizer(0.01)
    state = init_state(model, recipe, 8, jax.random.key(0), optimizer)
    step = jax.jit(make_train_step(model, recipe, None, 8, optimizer=optimizer))
    states = [state]
    for _ in range(steps):
        states.append(step(states[-1], batch(), jax.random.key(1))[0])
    return states


@pytest.mark.parametrize("precision", ["fp32", "bf16", FLOAT16])
def test_weights_statistics_and_moments_are_float32(precision):
    before, after = trained(precision)
    floats = [leaf for leaf in jax.tree.leaves(after) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert {leaf.dtype for leaf in floats} == {jnp.dtype("float32")}
    assert not np.array_equal(before.params["Dense_0"]["kernel"], after.params["Dense_0"]["kernel"])
    assert int(after.epoch_skipped) == 0


@pytest.mark.parametrize("precision", ["bf16", FLOAT16])
def test_half_precision_steps_change_weights_as_full_ones_do(precision):
    """The changes differ by less than a tenth; those of weights that stay put would differ by all.

    The steps are plain SGD's, since Adam would hide a gradient of the wrong size.
    """
    before, *_, full = trained("fp32", steps=3, optimizer="sgd")
    half = trained(precision, steps=3, optimizer="sgd")[-1]
    began, found, expected = (ravel_pytree(state.params)[0] for state in (before, half, full))
    assert jnp.linalg.norm(found - expected) < 0.1 * jnp.linalg.norm(expected - began)


@pytest.mark.float16
def test_a_step_that_overflows_changes_nothing_but_the_scale():
    """A step whose gradient overflows halves the loss scale; weights and moments stay as they are.

    Steps are skipped in this way until the scale is so low that the gradient fits into float16.
    """
    huge = lambda logits, labels: 2.0**10 * cross_entropy(logits, labels)  # noqa: E731
    states = trained("fp16", huge, steps=20)
    skipped = [int(state.epoch_skipped) for state in states]
    assert skipped[1] == 1
    assert 1 <= skipped[-1] < 20
    assert skipped[-1] == skipped[-2]
    before, after = states[0], states[1]
    for name in ("params", "batch_stats", "opt_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(before, name), getattr(after, name))
    assert float(after.scale.scale) == float(before.scale.scale) / 2
    assert int(after.step) == 1
    assert float(after.epoch_loss) == 0
    assert np.isfinite(float(states[-1].epoch_loss))


def test_an_unknown_precision_is_named():
    with pytest.raises(ConfigError, match=r"model\.precision = fp8: should be one of fp32, bf16"):
        dtype_of("fp8")


def test_a_processor_without_float16_is_told_what_to_choose():
    """On a processor that cannot convert to float16, fp16 is refused, and the error names bf16.

    Old processors lack this conversion; bfloat16 works on every processor.
    """
    program = """
import jax, jax.numpy as jnp
from jaxch5.errors import ConfigError
from jaxch5.training.precision import dtype_of, has_float16
try:
    dtype_of("fp16")
except ConfigError as error:
    print(error)
assert float(jax.jit(lambda x: x.astype(dtype_of("bf16")) * 2)(jnp.ones(()))) == 2
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"XLA_FLAGS": "--xla_cpu_max_isa=SSE4_2", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    if not done.stdout:
        pytest.skip("float16 is computed here whatever the instructions")
    assert "choose --model.precision bf16" in done.stdout
