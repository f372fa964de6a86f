"""`run_once` gives the values of the compiled function, but compiles almost nothing."""

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
    """Checks that two trees are equal, except for the rounding of their last bits.

    XLA may combine two factors by which a draw is multiplied, which changes the rounding.
    """
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_allclose(one, other, rtol=4 * np.finfo(np.float32).eps, atol=0)


def with_care(function):
    """Returns the function compiled with optimization, as `run_once` compiles its draws.

    The tests' other programs are compiled without optimization, which rounds values differently.
    """
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 1})


@pytest.fixture
def compiled():
    """A list of the names of the programs that are compiled during the test."""
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
    # There is a program for each kind of draw in the network, and one that derives keys.
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
    """A network with kinds of initial values that no network of jaxch5 has.

    They are an orthogonal kernel, a random mask, integers, and a parameter in bfloat16.
    """

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
    """Outputs share no memory with each other or with inputs.

    The memory of a state is donated to the training step, so no array may be in it twice.
    """

    def twice(x):
        zeros = jnp.zeros(4)
        return {"a": x, "b": jnp.copy(x), "c": zeros, "d": zeros}

    given = jnp.ones(4)
    found = run_once(twice, given)
    jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)(found)
    np.testing.assert_array_equal(given, np.ones(4))
