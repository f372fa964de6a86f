"""Defines the training loop `fit`, and the evaluation of a network."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxch5.batch import CachedBatch
from jaxch5.data.block import Data
from jaxch5.data.pipeline import Loader, to_device
from jaxch5.errors import TrainingError
from jaxch5.losses import Loss
from jaxch5.metrics import Metric, Record
from jaxch5.task import SOFTMAX, Task, computed
from jaxch5.training.events import Epoch, Step, StepRecord
from jaxch5.training.mesh import placement_of
from jaxch5.training.plan import Plan
from jaxch5.training.reduction import loss_of_batch
from jaxch5.training.resident import calls, steps_of
from jaxch5.training.state import TrainState
from jaxch5.training.step import EvalStep
from jaxch5.training.steps import Steps

# Reading a loss back waits until its step is done, so the latest losses are read later.
STEPS_BETWEEN_READS = 8
STEPS_UNREAD = 4
# One bad batch may give a loss that is not finite; after this many in a row, training ends.
NOT_FINITE_IN_A_ROW = 3


def fit(
    state: TrainState,
    data: Data,
    plan: Plan,
    steps: Steps,
    loss: Loss,
    key: Key[Array, ""],
    metrics: Sequence[str | Metric] = (),
    validate_first: bool = False,
    check: Callable[[], None] = lambda: None,
    task: Task = SOFTMAX,
    earlier_epochs: int = 0,
) -> Iterator[Step | Epoch]:
    """Trains according to a plan, starting at the step of `state`, and yields events.

    Args:
        state: State from which training begins; it is consumed.
        data: Pictures for training and validation.
        plan: Epochs, rates and momentum.
        steps: Compiled steps, from `compile_steps`.
        loss: Loss of the recipe, for validation.
        key: Root key for all random draws.
        metrics: Metrics to record in addition to the task's; see `Task.scores`.
        validate_first: Whether the state is at the end of an epoch that has not been validated yet.
        check: Function called before each batch of a validation; if it raises an error, `fit` ends.
        task: What labels mean, for validation.
        earlier_epochs: See `Begin`; added to the numbers of epochs in records and messages.

    Yields:
        A `Step` after each step or call of many steps, and an `Epoch` after each epoch; their state
        is valid until the next event is requested.

    Raises:
        TrainingError: Three losses in a row, or the mean loss of an epoch, are not finite; or
            float16 overflows in all steps of the call, or in all steps of an epoch after which the
            loss scale is below 1.
        ConfigError: A metric returns something other than one number.
    """
    steps_per_epoch = len(data.train)
    start = int(state.step)
    losses = _Losses(plan, start, half=state.scale is not None)
    placement = placement_of(state)
    put = placement.put
    began = time.perf_counter()
    first = start
    learned = False

    def validated(state: TrainState, epoch: int, stop: int) -> Epoch:
        nonlocal learned
        epoch += earlier_epochs
        unread = losses.read()
        losses.check()
        trained = time.perf_counter() - began
        made = steps_per_epoch - int(jax.device_get(state.epoch_skipped))
        learned |= made > 0
        train_loss = float(jax.device_get(state.epoch_loss)) / made if made else math.nan
        if made and not np.isfinite(train_loss):
            raise TrainingError(
                f"the training loss of epoch {epoch + 1} is {train_loss}{losses.way_out(stop - 1)}"
            )
        # A loss scale of 1 or more can still fall, and may reach a value that works.
        if not made and state.scale and float(jax.device_get(state.scale.scale)) < 1:
            raise TrainingError(_nothing_learned(epoch))
        record: Record = {
            "epoch": epoch,
            "phase": plan.name,
            "train_loss": train_loss,
            **evaluate(state, data.valid, steps.evaluate, loss, metrics, check, task),
            "seconds": time.perf_counter() - began,
            "images_per_second": (stop - first) * data.train.batch_size / trained,
        }
        if state.scale is not None:
            record["skipped_steps"] = steps_per_epoch - made
        return Epoch(stop, state, unread, record)

    if validate_first:
        yield validated(state, start // steps_per_epoch - 1, start)
    batches = data.train.steps(start, plan.stop(steps_per_epoch))
    step = start
    of_calls = calls(batches, start, steps_per_epoch, steps.a_call)
    for batch in to_device(of_calls, put=placement.put_batch):
        epoch, place = divmod(step, steps_per_epoch)
        if place == 0 or step == start:
            of_epoch = put(epoch_key(key, epoch))
        if place == 0:
            state = state.replace(epoch_loss=put(np.float32(0)), epoch_skipped=put(np.int32(0)))
            began, first = time.perf_counter(), step
        count = steps_of(batch)
        places = range(step - plan.start, step - plan.start + count)
        rates = np.array([plan.rates(place) for place in places], np.float32)
        momentum = np.array([plan.momentum(place) for place in places], np.float32)
        if count == 1:
            state = state.at_rate(put(rates[0]), put(momentum[0]))
            # Everything that the step needs is on the device now; any transfer would be a bug.
            with jax.transfer_guard("disallow"):
                state, output = steps.train(state, batch, of_epoch)
            losses.add(output["loss"])
        else:
            assert steps.many is not None
            assert isinstance(batch, CachedBatch)
            rates, momentum = put((rates, momentum))
            with jax.transfer_guard("disallow"):
                state, many = steps.many(state, batch, rates, momentum, of_epoch)
            losses.add(many)
        due = (step + count) // STEPS_BETWEEN_READS > step // STEPS_BETWEEN_READS
        step += count
        read = losses.read(but=STEPS_UNREAD if count == 1 else 1) if due else []
        # The step has consumed the earlier state, so this one is handed out before any error.
        yield Step(step, state, read)
        losses.check()

        if step % steps_per_epoch == 0:
            yield validated(state, epoch, step)
    if step > start and not learned:
        raise TrainingError(_nothing_learned(epoch + earlier_epochs))


def _nothing_learned(epoch: int) -> str:
    return (
        f"in epoch {epoch + 1} every step was skipped, because its gradients were too large for "
        "float16: nothing was learned; try --model.precision bf16 or fp32"
    )


class _Losses:
    """Reads the losses of steps back from the device, a few at a time; `check` refuses bad ones."""

    def __init__(self, plan: Plan, start: int, half: bool) -> None:
        self._plan = plan
        self._half = half
        self._read = start
        self._unread: list[Float[Array, "*steps"]] = []
        self._not_finite = 0
        self._finite = start > 0
        self._error: TrainingError | None = None

    def add(self, losses: Float[Array, "*steps"]) -> None:
        """Adds the loss of a step, or the losses of a call of many steps."""
        self._unread.append(losses)

    def read(self, but: int = 0) -> list[StepRecord]:
        """Returns records of all unread steps, except those of the last `but` calls to `add`."""
        count = max(0, len(self._unread) - but)
        losses = [
            float(loss) for read in jax.device_get(self._unread[:count]) for loss in np.ravel(read)
        ]
        del self._unread[:count]
        read = []
        for loss in losses:
            self._not_finite = 0 if np.isfinite(loss) else self._not_finite + 1
            if self._not_finite == NOT_FINITE_IN_A_ROW:
                self._error = TrainingError(
                    f"the loss of steps {self._read + 2 - NOT_FINITE_IN_A_ROW} to "
                    f"{self._read + 1} is {loss}{self.way_out(self._read)}"
                )
            self._finite |= bool(np.isfinite(loss))
            place = self._read - self._plan.start
            rates, momentum = tuple(self._plan.rates(place)), self._plan.momentum(place)
            read.append(StepRecord(self._read, loss, rates, momentum))
            self._read += 1
        return read

    def check(self) -> None:
        """Raises the error of three losses in a row that are not finite, once they were read."""
        if self._error:
            raise self._error

    def way_out(self, step: int) -> str:
        """Returns the end of a message about a loss that is not finite, which says what to do."""
        if not self._finite:
            return (
                " and was never finite, which no learning rate can fix: check the weights "
                "(--model.weights), the pictures and the loss"
                + ", or try --model.precision bf16"
                * self._half
            )
        rate = max(self._plan.rates(step - self._plan.start))
        return (
            f", at a learning rate of {rate:.1e}: lower it (--fit.lr), or clip the gradients "
            "(--fit.clip 1)"
        )


def epoch_key(key: Key[Array, ""], epoch: int) -> Key[Array, ""]:
    """Returns the key for all draws of an epoch."""
    return jax.random.fold_in(key, jax.device_put(np.uint32(epoch)))


def predict(
    state: TrainState,
    loader: Loader,
    eval_step: EvalStep,
    check: Callable[[], None] = lambda: None,
) -> tuple[Float[np.ndarray, "items classes"], Int[np.ndarray, "items"]]:
    """Returns the logits and labels of a validation loader's items, each item once, in order."""
    logits: list[np.ndarray] = []
    waiting: Array | None = None
    put = placement_of(state).put_batch
    for batch in to_device(loader.steps(0, len(loader)), put=put):
        check()
        output = eval_step(state, batch)
        if waiting is not None:
            logits.append(jax.device_get(waiting))
        waiting = output
    if waiting is not None:
        logits.append(jax.device_get(waiting))
    # Batches are padded with rows that belong to no item.
    places, rows = loader.order(0).reshape(-1), np.concatenate(logits)
    in_order = np.empty((len(loader.items), rows.shape[1]), rows.dtype)
    in_order[places[places >= 0]] = rows[places >= 0]
    return in_order, loader.labels


def evaluate(
    state: TrainState,
    loader: Loader,
    eval_step: EvalStep,
    loss: Loss,
    metrics: Sequence[str | Metric] = (),
    check: Callable[[], None] = lambda: None,
    task: Task = SOFTMAX,
) -> dict[str, float]:
    """Computes the loss, the task's metrics and `metrics` over a loader; each picture counts once.

    If the network's outputs are not finite for some pictures, all scores are NaN and `unanswered`
    counts these pictures, because scores of the others would not describe the whole set.

    Raises:
        ConfigError: A metric returns something other than one number.
    """
    logits, labels = predict(state, loader, eval_step, check)
    scores = task.scores(metrics)
    # NumPy treats NaN as the greatest value, so the index of a NaN would become the answer.
    unanswered = int(np.sum(~np.isfinite(logits.max(axis=1))))
    if unanswered:
        return {**dict.fromkeys(("valid_loss", *scores), math.nan), "unanswered": unanswered}
    probabilities = task.probabilities(logits)
    # JAX looks up compiled programs by their functions, so a function that is defined here would be
    # compiled each time.
    reduce = jax.jit(loss_of_batch, static_argnums=0)
    loss_of_all = (reduce if isinstance(loss, Hashable) else loss_of_batch)(
        loss, *jax.device_put((logits, labels))
    )
    return {
        "valid_loss": float(jax.device_get(loss_of_all)),
        **computed(scores, probabilities, labels),
    }
