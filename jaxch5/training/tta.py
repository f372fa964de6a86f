"""Test-time augmentation: what a model makes of augmented pictures, for the mean of many looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Float, Key

from jaxch5.data.pipeline import Loader
from jaxch5.task import SOFTMAX, Task
from jaxch5.training.compiler import compiler_options
from jaxch5.training.loop import predict
from jaxch5.training.mesh import placement_of
from jaxch5.training.state import TrainState
from jaxch5.training.step import DrawnEvalStep


def compile_looks(drawn_step: DrawnEvalStep, state: TrainState) -> DrawnEvalStep:
    """Returns what `drawn_looks` takes: a step that is compiled for each shape that it meets, once.

    Args:
        drawn_step: what `make_drawn_eval_step` returns.
        state: one on the devices on which others will be.
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
    """Probabilities of all items of a validation loader, `n` times, each time by other draws.

    Args:
        step: what `compile_looks` returns.
        state: of the network; it is not consumed.
        loader: of validation pictures.
        key: root of the draws.
        n: how many times.
        task: what makes probabilities of logits.
    """
    placement = placement_of(state)
    for draw in jax.random.split(jax.random.fold_in(key, n), n):
        logits, _ = predict(state, loader, partial(step, key=placement.put(draw)))
        yield task.probabilities(logits)
