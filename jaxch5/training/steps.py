"""The steps of a run, compiled: of training, of evaluation, and of many at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxch5.batch import CachedBatch
from jaxch5.data.block import Data
from jaxch5.optim.optimizer import number_of_rates
from jaxch5.training.compiler import compiler_options
from jaxch5.training.memory import Need, check_memory, memory_limit, need_of, out_of_memory
from jaxch5.training.resident import ManySteps, make_many_steps, stacked, steps_a_call
from jaxch5.training.state import TrainState
from jaxch5.training.step import EvalStep, TrainStep


class Steps(NamedTuple):
    """What `compile_steps` returns; these take the shapes that they were compiled for alone.

    Attributes:
        train: one step of training; the state is donated.
        evaluate: logits of a batch.
        need: memory of a training step; None where the compiler does not say.
        many: `a_call` steps of training at once; None where they are done one by one.
        a_call: how many.
    """

    train: TrainStep
    evaluate: EvalStep
    need: Need | None
    many: ManySteps | None
    a_call: int


def compile_steps(
    train_step: TrainStep,
    eval_step: EvalStep,
    state: TrainState,
    data: Data,
    key: Key[Array, ""],
    deterministic: bool = False,
    resident: bool | None = None,
) -> Steps:
    """The steps compiled for the shapes of `data`, at the same time.

    Args:
        train_step, eval_step: see `jaxch5.training.step`.
        state: of the shapes that it will have.
        data: what to train on.
        key: of the kind that it will be.
        deterministic: see `compiler_options`.
        resident: whether training goes many steps a call; None is where the set lies on an
            accelerator.

    Raises:
        TrainingError: the device's memory is too small.
    """
    options = compiler_options(deterministic)
    train = jax.jit(train_step, donate_argnums=0, compiler_options=options)
    evaluate = jax.jit(eval_step, compiler_options=options)
    batch = data.train.shapes()
    if resident is None:
        resident = isinstance(batch, CachedBatch) and jax.default_backend() != "cpu"
    a_call = steps_a_call(len(data.train)) if resident else 1
    programs = [train.lower(state, batch, key), evaluate.lower(state, batch)]
    if a_call > 1:
        assert isinstance(batch, CachedBatch)
        many = jax.jit(make_many_steps(train_step), donate_argnums=0, compiler_options=options)
        rates = jax.ShapeDtypeStruct((a_call, number_of_rates(state.opt_state)), jnp.float32)
        momentum = jax.ShapeDtypeStruct((a_call,), jnp.float32)
        programs.append(many.lower(state, stacked(batch, a_call), rates, momentum, key))
    batch_size = data.train.batch_size
    pool = ThreadPoolExecutor(len(programs))
    try:
        with out_of_memory(None, batch_size, data.size):
            # Not in this thread, which would hear of no signal until it is done.
            compiled = list(pool.map(lambda program: program.compile(), programs))
    finally:
        pool.shutdown(wait=False)
    kept = (state, data.train.on_device)
    need = need_of(compiled[0], kept, batch_size)
    check_memory(need, batch_size, data.size, memory_limit())
    return Steps(compiled[0], compiled[1], need, compiled[2] if a_call > 1 else None, a_call)
