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
