"""Compiles the steps of a run: one training step, many steps in one call, and evaluation."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.stages import Compiled
from jaxtyping import Array, Key

from jaxch5.batch import Batch, CachedBatch
from jaxch5.data.block import Data
from jaxch5.optim.optimizer import number_of_rates
from jaxch5.training.compiler import compiler_options
from jaxch5.training.kept import environment_of, kept, shapes_of
from jaxch5.training.memory import Need, check_memory, memory_limit, need_of, out_of_memory
from jaxch5.training.mesh import placement_of
from jaxch5.training.resident import ManySteps, make_many_steps, stacked, steps_a_call
from jaxch5.training.state import TrainState
from jaxch5.training.step import EvalStep, TrainStep


class Steps(NamedTuple):
    """Holds the compiled steps of a run, which accept only the shapes they were compiled for.

    Attributes:
        train: Function that does one training step; the state is donated.
        evaluate: Function from state and batch to logits; its first call may wait for compilation.
        need: Memory that a training step needs; None if the compiler does not report it.
        many: Function that does `a_call` training steps; None if they are done one by one.
        a_call: Number of training steps per call.
    """

    train: TrainStep
    evaluate: EvalStep
    need: Need | None
    many: ManySteps | None
    a_call: int

    def wrapped(self, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Steps:
        """Returns the steps with `wrap` around the functions that train."""
        return self._replace(train=wrap(self.train), many=self.many and wrap(self.many))


def compile_steps(
    train_step: TrainStep,
    eval_step: EvalStep,
    state: TrainState,
    data: Data,
    key: Key[Array, ""],
    deterministic: bool = False,
    resident: bool | None = None,
    evaluate: EvalStep | None = None,
) -> Steps:
    """Compiles the steps for the shapes of `data`, to run where `state` is stored.

    Args:
        train_step, eval_step: Functions created by `jaxch5.training.step`.
        state: State with the same shapes as the states in later calls.
        data: Pictures to train on.
        key: Key of the same kind as the keys in later calls.
        deterministic: See `compiler_options`.
        resident: Whether a call runs many steps; None means that it does if the pictures are cached
            on an accelerator.
        evaluate: Evaluation step that is already compiled for the same network and pictures; None
            compiles `eval_step`.

    Raises:
        TrainingError: The device's memory is too small.
    """
    options = compiler_options(deterministic)
    placement = placement_of(state)
    batch, everywhere, key = data.train.shapes(), placement.everywhere, placement.put(key)
    if resident is None:
        resident = isinstance(batch, CachedBatch) and jax.default_backend() != "cpu"
    a_call = steps_a_call(len(data.train)) if resident else 1
    # A step's new state is stored where its old state was, because the next step expects it there.
    after = jax.tree.map(lambda leaf: leaf.sharding, state) if everywhere else None
    jit = partial(jax.jit, compiler_options=options)
    train = jit(train_step, donate_argnums=0, out_shardings=(after, everywhere))
    many = jit(make_many_steps(train_step), donate_argnums=0, out_shardings=(after, everywhere))
    of_evaluation = jit(eval_step, out_shardings=everywhere)

    environment = None if everywhere else environment_of()

    def compiled(jitted: Any, function: Any, *args: Any) -> Compiled:
        of = jitted.__name__, function, shapes_of(args), options
        return kept(lambda: jitted.lower(*args).compile(), environment, *of)

    def compile_many() -> ManySteps | None:
        if a_call == 1:
            return None
        assert isinstance(batch, CachedBatch)
        rates = np.zeros((a_call, number_of_rates(state.opt_state)), np.float32)
        batches = placement.shapes(stacked(batch, a_call))
        return compiled(many, train_step, state, batches, *placement.put((rates, rates[:, 0])), key)

    batch_size = data.train.batch_size
    of_step = placement.shapes(batch)
    pool = ThreadPoolExecutor(3)
    try:
        with out_of_memory(None, batch_size, data.size, data.devices):
            # Compiled in other threads, because this one would notice no signal while it compiles.
            compiled_many = pool.submit(compile_many)
            compiled_train = pool.submit(compiled, train, train_step, state, of_step, key).result()
            need = need_of(compiled_train, (state, data.train.on_device), batch_size)
            check_memory(need, batch_size, data.size, memory_limit(), data.devices)
            # Training can begin while the evaluation is being compiled.
            if evaluate is None:
                args = without_moments(state), of_step
                evaluate = Later(pool.submit(compiled, of_evaluation, eval_step, *args))
            return Steps(compiled_train, evaluate, need, compiled_many.result(), a_call)
    finally:
        pool.shutdown(wait=False)


def without_moments(state: TrainState) -> TrainState:
    """Returns the part of a state that evaluation needs; its shapes do not depend on freezing."""
    return state.replace(opt_state=())


class Later:
    """Holds an evaluation step compiled in the background; a call waits for the compilation."""

    def __init__(self, future: Future[Compiled]) -> None:
        self.future = future

    def __call__(self, state: TrainState, batch: Batch | CachedBatch) -> Any:
        return self.future.result()(without_moments(state), batch)
