"""The training loop, to be read from top to bottom."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxch5.batch import Batch, CachedBatch
from jaxch5.data.block import Data
from jaxch5.data.pipeline import Loader, to_device
from jaxch5.errors import TrainingError
from jaxch5.optim.optimizer import with_hyperparams
from jaxch5.optim.schedule import Schedule
from jaxch5.training.compiler import compiler_options
from jaxch5.training.state import TrainState
from jaxch5.training.step import EvalStep, Loss, TrainStep

# Reading a loss back waits for its step; one that lies some steps back has long been computed.
STEPS_BETWEEN_READS = 8


class Plan(NamedTuple):
    """How many epochs to train, with which rates."""

    epochs: int
    rate: Schedule
    momentum: Schedule


class Step(NamedTuple):
    """`number` steps are done. `loss`, where it was read back, is that of some steps ago."""

    state: TrainState
    number: int
    loss: float | None


class Epoch(NamedTuple):
    """An epoch is done and validated."""

    state: TrainState
    record: dict[str, float | int]


def compile_steps(
    train_step: TrainStep, eval_step: EvalStep, state: TrainState, data: Data, key: Key[Array, ""]
) -> tuple[TrainStep, EvalStep]:
    """The two steps compiled for the shapes of `data`, at the same time; `state` is donated.

    The compiled functions take no other shapes.
    """
    options = compiler_options()
    train = jax.jit(train_step, donate_argnums=0, compiler_options=options)
    evaluate = jax.jit(eval_step, compiler_options=options)
    batch = data.train.shapes()
    with ThreadPoolExecutor(2) as pool:
        compiled_eval = pool.submit(lambda: evaluate.lower(state, batch).compile())
        compiled_train = train.lower(state, batch, key).compile()
        return compiled_train, compiled_eval.result()


def fit(
    state: TrainState,
    data: Data,
    plan: Plan,
    train_step: TrainStep,
    eval_step: EvalStep,
    loss: Loss,
    key: Key[Array, ""],
) -> Iterator[Step | Epoch]:
    """Trains from `state.step` to the end of the plan and tells of each step and each epoch.

    The state that is handed out is consumed by the next step: who keeps one takes the last.

    Raises:
        TrainingError: the loss of an epoch is not a finite number.
    """
    steps_per_epoch = len(data.train)
    start = int(state.step)
    recent: list[Float[Array, ""]] = []
    began = time.perf_counter()
    first = start

    for step, batch in enumerate(
        to_device(data.train.steps(start, plan.epochs * steps_per_epoch)), start
    ):
        epoch, place = divmod(step, steps_per_epoch)
        if place == 0:
            state = state.replace(epoch_loss=jax.device_put(np.float32(0)))
            began, first = time.perf_counter(), step
        state = state.replace(
            opt_state=with_hyperparams(
                state.opt_state,
                lr=jax.device_put(np.float32(plan.rate(step))),
                momentum=jax.device_put(np.float32(plan.momentum(step))),
            )
        )
        # Whatever the step needs is on the device by now; anything else would be an oversight.
        with jax.transfer_guard("disallow"):
            state, metrics = train_step(state, batch, epoch_key(key, epoch))
        recent.append(metrics["loss"])
        read = len(recent) == STEPS_BETWEEN_READS
        yield Step(state, step + 1, float(jax.device_get(recent[0])) if read else None)
        if read:
            recent = []

        if place == steps_per_epoch - 1:
            train_loss = float(jax.device_get(state.epoch_loss)) / steps_per_epoch
            trained = time.perf_counter() - began
            if not np.isfinite(train_loss):
                raise TrainingError(
                    f"the training loss of epoch {epoch} is {train_loss}: "
                    "lower the learning rate (--fit.lr)"
                )
            record = {
                "epoch": epoch,
                "train_loss": train_loss,
                **evaluate(state, data.valid, eval_step, loss),
                "seconds": time.perf_counter() - began,
                "images_per_second": (step + 1 - first) * data.train.batch_size / trained,
            }
            yield Epoch(state, record)


def epoch_key(key: Key[Array, ""], epoch: int) -> Key[Array, ""]:
    """The key from which all draws of an epoch come."""
    return jax.random.fold_in(key, jax.device_put(np.uint32(epoch)))


def predict(
    state: TrainState, loader: Loader, eval_step: EvalStep
) -> tuple[Float[np.ndarray, "items classes"], Int[np.ndarray, "items"]]:
    """Logits and labels of all items of a loader, each once, in order."""
    logits, labels = [], []
    waiting: tuple[Array, Batch | CachedBatch] | None = None

    def collect(output: Array, batch: Batch | CachedBatch) -> None:
        output, label, mask = jax.device_get((output, batch.label, batch.mask))
        logits.append(output[mask])
        labels.append(label[mask])

    for batch in to_device(loader.steps(0, len(loader))):
        output = eval_step(state, batch)
        if waiting is not None:
            collect(*waiting)
        waiting = output, batch
    if waiting is not None:
        collect(*waiting)
    return np.concatenate(logits), np.concatenate(labels)


def evaluate(
    state: TrainState, loader: Loader, eval_step: EvalStep, loss: Loss
) -> dict[str, float]:
    """Loss and metrics over all pictures of a loader; each picture counts once."""
    logits, labels = predict(state, loader, eval_step)
    accuracy = float(np.mean(np.argmax(logits, axis=1) == labels))
    value = jax.jit(loss)(*jax.device_put((logits, labels)))
    return {
        "valid_loss": float(jax.device_get(value)),
        "accuracy": accuracy,
        "error_rate": 1.0 - accuracy,
    }
