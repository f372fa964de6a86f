"""A step that does not fit in memory is refused by an error that says what would fit."""

import os

import jax
import jax.numpy as jnp
import pytest

from jaxch5.errors import TrainingError
from jaxch5.training.memory import Need, check_memory, memory_limit, need_of, out_of_memory
from jaxch5.util.memory import groups


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


def test_what_several_devices_are_to_try_can_be_shared_by_them():
    need = Need(10**9, 10**8)
    with pytest.raises(TrainingError, match=r"try --data.batch-size 64$"):
        check_memory(need, 128, 224, limit=8 * 10**9, devices=16)
    with (
        pytest.raises(TrainingError, match=r"try --data.batch-size 32$"),
        out_of_memory(None, 80, 32, devices=16),
    ):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED")
    with pytest.raises(TrainingError, match="not even one picture fits on each device; try"):
        check_memory(need, 128, 224, limit=2 * 10**9, devices=16)


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
    device = jax.local_devices()[0]
    of_machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    of_machine = min([of_machine, *(group.limit for group in groups())])
    on_cpu = device.platform == "cpu"
    assert memory_limit() == (of_machine if on_cpu else device.memory_stats()["bytes_limit"])
