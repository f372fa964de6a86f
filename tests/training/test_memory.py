"""A step that does not fit in memory is refused by an error that says what would fit."""

import jax
import jax.numpy as jnp
import pytest

from jaxch5.errors import TrainingError
from jaxch5.training.memory import Need, check_memory, memory_limit, need_of, out_of_memory


def test_a_steps_need_grows_with_its_batch():
    def step(state, batch):
        return state + jnp.sin(batch @ batch.T).sum()

    state = jnp.zeros((1000,))
    needs = []
    for count in (8, 64):
        batch = jax.ShapeDtypeStruct((count, 5000), jnp.float32)
        compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
        needs.append(need_of(compiled, state, count))
    assert [need.fixed for need in needs] == [4000, 4000]
    assert all(need.per_picture >= 20_000 for need in needs)


@pytest.mark.parametrize(
    ("need", "line"),
    [
        (Need(10**9, 10**8), "which need about 13.8 GB: try --data.batch-size 70"),
        (Need(9 * 10**9, 10**8), "not even one picture fits; try a smaller --data.size"),
    ],
)
def test_what_cannot_fit_is_refused_before_it_is_tried(need, line):
    check_memory(need, 8, 224, limit=10**12)
    with pytest.raises(TrainingError, match=line):
        check_memory(need, 128, 224, limit=8 * 10**9)


def test_a_device_out_of_memory_is_one_line():
    """An array of a petabyte, which no machine can hold, causes the error."""
    with (
        pytest.raises(TrainingError, match=r"64 pictures of 32 x 32 .* --data.batch-size 32"),
        out_of_memory(None, 64, 32),
    ):
        jax.block_until_ready(jnp.zeros((10**15,), jnp.int8))


def test_another_error_stays_what_it_is():
    with pytest.raises(jax.errors.JaxRuntimeError, match="another"), out_of_memory(None, 1, 1):
        raise jax.errors.JaxRuntimeError("another")


def test_the_limit_is_that_of_the_machine():
    assert memory_limit() > 10**8
