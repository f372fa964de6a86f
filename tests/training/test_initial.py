"""What runs once has the values of a compiled program, and compiles next to nothing."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import initializers
from jax import monitoring

from jaxch5.models.registry import create_model
from jaxch5.training import initial
from jaxch5.training.initial import run_once


def assert_equal_to_the_last_bit_but_one(found, expected):
    """Compilers may multiply two factors of a draw first, which rounds once more."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_allclose(one, other, rtol=4 * np.finfo(np.float32).eps, atol=0)


def with_care(function):
    """The function compiled as the draws are, which round once less than tests' other programs."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 1})


@pytest.fixture
def compiled():
    """Names of the programs that are compiled meanwhile."""
    names = []

    def listen(event, duration, **named):
        if event.endswith("backend_compile_duration"):
            names.append(named.get("fun_name"))

    monitoring.register_event_duration_secs_listener(listen)
    yield names
    monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("arch", ["resnet18", "convnext_nano", "vit_small_patch16_224"])
def test_initial_weights_are_those_of_the_compiled_network(arch, compiled):
    model = create_model(arch, 10)

    def init(key):
        return model.init(key, jnp.zeros((1, 32, 32, 3)), train=False)

    key = jax.random.key(3)
    expected = with_care(init)(key)
    compiled.clear()
    found = run_once(init, key)
    assert_equal_to_the_last_bit_but_one(found, expected)
    # One program for each kind of draw that the network has, and one that derives keys.
    assert len(compiled) <= 5, compiled


def test_a_draw_of_several_pieces_is_the_same_as_in_one(monkeypatch):
    def draw(key):
        return jax.random.normal(key, (1000, 7)), jax.random.truncated_normal(key, -1, 2, (999,))

    expected = with_care(draw)(jax.random.key(5))
    monkeypatch.setattr(initial, "PIECE", 1024)
    initial._program.cache_clear()
    try:
        found = run_once(draw, jax.random.key(5))
    finally:
        initial._program.cache_clear()
    assert_equal_to_the_last_bit_but_one(found, expected)


class Own(nn.Module):
    """Initialized as nothing here is: an orthogonal kernel, a mask, integers, a small type."""

    @nn.compact
    def __call__(self, x):
        turned = self.param("turned", initializers.orthogonal(), (8, 8))
        mask = self.variable(
            "batch_stats",
            "mask",
            lambda: jax.random.bernoulli(self.make_rng("params"), 0.5, (8,)),
        )
        small = self.param("small", initializers.normal(0.1), (8,), jnp.bfloat16)
        count = self.variable("batch_stats", "count", lambda: jnp.arange(3))
        return x @ turned * mask.value + small + count.value.sum()


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_any_network_and_any_key_has_its_own_values(impl):
    key = jax.random.key(1, impl=impl)

    def init(key):
        return Own().init(key, jnp.zeros((2, 8)))

    compiled = with_care if impl == "threefry2x32" else jax.jit
    assert_equal_to_the_last_bit_but_one(run_once(init, key), compiled(init)(key))


def test_each_output_is_stored_by_itself():
    """A step consumes its state, of which no two parts may be the same memory."""

    def twice(x):
        zeros = jnp.zeros(4)
        return {"a": x, "b": jnp.copy(x), "c": zeros, "d": zeros}

    given = jnp.ones(4)
    found = run_once(twice, given)
    jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)(found)
    np.testing.assert_array_equal(given, np.ones(4))
