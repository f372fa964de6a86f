"""The optimizer takes the steps of fastai's Adam, and a new rate needs no new compilation."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxch5.errors import ConfigError
from jaxch5.optim.optimizer import make_optimizer, with_hyperparams

ADAM = json.loads((Path(__file__).parent / "golden.json").read_text())["adam"]


def test_adam_is_fastais_with_changing_rate_and_momentum():
    """Weight decay applies to the matrix but not to the bias; b2 is 0.99 and eps is 1e-5."""
    optimizer = make_optimizer(wd=0.01)
    params = {"w": jnp.array(ADAM["w"]), "b": jnp.array(ADAM["b"])}
    state = optimizer.init(params)

    @jax.jit
    def update(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for step in ADAM["steps"]:
        state = with_hyperparams(
            state, lr=jnp.float32([step["lr"]]), momentum=jnp.float32(step["mom"])
        )
        grads = {"w": jnp.array(step["grad_w"]), "b": jnp.array(step["grad_b"])}
        params, state = update(params, state, grads)
        np.testing.assert_allclose(params["w"], step["w"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(params["b"], step["b"], rtol=1e-5, atol=1e-6)
    assert update._cache_size() == 1


@pytest.mark.parametrize("value", [{"wd": -1.0}, {"clip": -1.0}, {"accumulate": 1.5}])
def test_a_number_out_of_range_is_refused(value):
    ((name, number),) = value.items()
    with pytest.raises(ConfigError, match=f"^{name} = {number}: should be "):
        make_optimizer(**value)


def by_hand(name, steps, params, wd, lr, momentum):
    """Takes the steps of an optimizer's paper in float64; only the matrix `w` decays."""
    b2, eps = {"adam": (0.99, 1e-5), "adamw": (0.999, 1e-8)}.get(name, (0.999, 1e-6))
    params = {key: np.array(value, float) for key, value in params.items()}
    mean, square = ({key: np.zeros_like(value) for key, value in params.items()} for _ in range(2))
    for number, grads in enumerate(steps, 1):
        for key, value in params.items():
            if name == "sgd":
                mean[key] = step = momentum * mean[key] + grads[key]
            else:
                mean[key] = momentum * mean[key] + (1 - momentum) * grads[key]
                square[key] = b2 * square[key] + (1 - b2) * grads[key] ** 2
                unbiased = mean[key] / (1 - momentum**number), square[key] / (1 - b2**number)
                step = unbiased[0] / (np.sqrt(unbiased[1]) + eps)
            step = step + wd * value * (key == "w")
            if name == "lamb":
                step = step * np.linalg.norm(value) / np.linalg.norm(step)
            params[key] = value - lr * step
    return params


@pytest.mark.parametrize("name", ["adam", "adamw", "lamb", "sgd"])
def test_each_optimizer_takes_the_steps_of_its_paper(name):
    """Weight decay is decoupled, multiplied by the rate, and not applied to the bias."""
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(3, 2)), "b": rng.normal(size=2)}
    steps = [
        {key: rng.normal(size=np.shape(value)) for key, value in params.items()} for _ in "abc"
    ]
    optimizer = make_optimizer(name, lr=0.1, momentum=0.9, wd=0.3)
    found = jax.tree.map(jnp.float32, params)
    state = optimizer.init(found)
    for grads in steps:
        updates, state = optimizer.update(jax.tree.map(jnp.float32, grads), state, found)
        found = optax.apply_updates(found, updates)
    expected = by_hand(name, steps, params, wd=0.3, lr=0.1, momentum=0.9)
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-5, atol=1e-6)
