"""Computes a model's probabilities for augmented pictures, for test-time augmentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Float, Key

from jaxch5.data.pipeline import Loader
from jaxch5.errors import ConfigError
from jaxch5.task import SOFTMAX, Task
from jaxch5.training.compiler import compiler_options
from jaxch5.training.loop import predict
from jaxch5.training.mesh import placement_of
from jaxch5.training.state import TrainState
from jaxch5.training.step import DrawnEvalStep


def compile_looks(drawn_step: DrawnEvalStep, state: TrainState) -> DrawnEvalStep:
    """Returns the step for `drawn_looks`; it is compiled at its first call with each shape.

    Args:
        drawn_step: Result of `make_drawn_eval_step`.
        state: State on the same devices as later states.
    """
    everywhere = placement_of(state).everywhere
    return jax.jit(drawn_step, out_shardings=everywhere, compiler_options=compiler_options())


def drawn_looks(
    step: Callable[..., Array],
    state: TrainState,
    loader: Loader,
    key: Key[Array, ""],
    n: int,
    task: Task = SOFTMAX,
) -> Iterator[Float[np.ndarray, "items classes"]]:
    """Yields the probabilities of all items of a loader `n` times, each time with new random draws.

    Args:
        step: Result of `compile_looks`.
        state: State of the network; it is not consumed.
        loader: Loader of validation pictures.
        key: Root key for all random draws.
        n: Number of times that each item is evaluated.
        task: Task that turns logits into probabilities.

    Raises:
        ConfigError: `n` is below 0.
    """
    if n < 0:
        raise ConfigError(f"n = {n}: should be at least 0")

    def look(draw: Key[Array, ""]) -> Float[np.ndarray, "items classes"]:
        put = placement_of(state).put
        return task.probabilities(predict(state, loader, partial(step, key=put(draw)))[0])

    # Each result is computed on demand, so that earlier ones need not be kept.
    return map(look, jax.random.split(jax.random.fold_in(key, n), n))
