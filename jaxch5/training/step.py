"""The training step and the evaluation step: pure functions, made to be compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from jaxch5.augmentation.mixing import Mixed, mixed_loss
from jaxch5.augmentation.policy import Policy, augment, center
from jaxch5.batch import Batch, CachedBatch
from jaxch5.training.state import TrainState

Loss = Callable[[Float[Array, "batch classes"], Int[Array, "batch"]], Float[Array, ""]]
TrainStep = Callable[
    [TrainState, Batch | CachedBatch, Key[Array, ""]],
    tuple[TrainState, dict[str, Float[Array, ""]]],
]
Mixer = Callable[[Float[Array, "batch height width 3"], Key[Array, ""]], Mixed]
EvalStep = Callable[[TrainState, Batch | CachedBatch], Float[Array, "batch classes"]]


class Normalization(NamedTuple):
    """Mean and deviation of each colour channel, of values 0 to 1; they travel with the weights."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def normalize(
    pictures: Float[Array, "batch height width 3"], normalization: Normalization
) -> Float[Array, "batch height width 3"]:
    """Pictures whose channels have about mean 0 and deviation 1.

    Example:
        >>> grey = Normalization((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
        >>> float(normalize(jnp.ones((1, 1, 1, 3)), grey)[0, 0, 0, 0])
        2.0
    """
    mean = jnp.asarray(normalization.mean, pictures.dtype)
    std = jnp.asarray(normalization.std, pictures.dtype)
    return (pictures - mean) / std


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    policy: Policy | None,
    size: int,
    normalization: Normalization = IMAGENET,
    mix: Mixer | None = None,
) -> TrainStep:
    """A function `(state, batch, key) -> (state, metrics)` that augments, trains and updates.

    `key` is the epoch's; draws are folded with each item's index and with the step, so that any
    step can be run again. `metrics` holds the batch's mean `loss`.

    Args:
        model: called as `model.apply(variables, x, train=True)` on normalized pictures.
        optimizer: its state is the state's `opt_state`.
        loss: mean over the items of logits and labels.
        policy: what `aug_transforms` returns; None takes the centre crop.
        size: side of the network's input, pixels.
        normalization: applied to the augmented pictures.
        mix: `mixup` or `cutmix`, of pictures and a key; None mixes nothing.
    """

    def train_step(
        state: TrainState, batch: Batch | CachedBatch, key: Key[Array, ""]
    ) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
        batch = batch.open()
        augment_key, dropout_key = jax.random.split(key)
        pictures = augment(policy, batch, augment_key, size)
        if mix is None:
            loss_of_batch = loss
        else:
            # Partners are of the same batch, so this draw cannot come from the items alone.
            mixed = mix(pictures, jax.random.fold_in(augment_key, state.step))
            pictures, loss_of_batch = mixed.pictures, partial(mixed_loss, loss, mixed=mixed)
        pictures = normalize(pictures, normalization)

        def loss_of(params: PyTree) -> tuple[Float[Array, ""], PyTree]:
            logits, updated = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                pictures,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.fold_in(dropout_key, state.step)},
            )
            return loss_of_batch(logits, batch.label), updated["batch_stats"]

        (value, batch_stats), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        state = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
            epoch_loss=state.epoch_loss + value,
        )
        return state, {"loss": value}

    return train_step


def make_eval_step(
    model: nn.Module, size: int, normalization: Normalization = IMAGENET
) -> EvalStep:
    """A function `(state, batch) -> logits` of the centre crops; padded rows are the caller's."""

    def eval_step(state: TrainState, batch: Batch | CachedBatch) -> Float[Array, "batch classes"]:
        pictures = normalize(center(batch.open(), size), normalization)
        return cast(Array, model.apply(state.variables, pictures, train=False))

    return eval_step


def make_drawn_eval_step(
    model: nn.Module,
    policy: Policy | None,
    size: int,
    normalization: Normalization = IMAGENET,
) -> Callable[[TrainState, Batch | CachedBatch, Key[Array, ""]], Float[Array, "batch classes"]]:
    """A function `(state, batch, key) -> logits` of augmented pictures, for the mean of many."""

    def drawn_eval_step(
        state: TrainState, batch: Batch | CachedBatch, key: Key[Array, ""]
    ) -> Float[Array, "batch classes"]:
        pictures = normalize(augment(policy, batch.open(), key, size), normalization)
        return cast(Array, model.apply(state.variables, pictures, train=False))

    return drawn_eval_step
