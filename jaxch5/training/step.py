"""The training step and the evaluation step: pure functions, made to be compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from jaxch5.augmentation.mixing import Mixed, mixed_loss
from jaxch5.augmentation.policy import Policy, augment, center
from jaxch5.batch import Batch, CachedBatch
from jaxch5.models.normalization import IMAGENET, Normalization, normalize
from jaxch5.optim.groups import Path, merge, partition
from jaxch5.training.state import TrainState

Loss = Callable[[Float[Array, "batch classes"], Int[Array, "batch"]], Float[Array, ""]]
TrainStep = Callable[
    [TrainState, Batch | CachedBatch, Key[Array, ""]],
    tuple[TrainState, dict[str, Float[Array, ""]]],
]
Mixer = Callable[[Float[Array, "batch height width 3"], Key[Array, ""]], Mixed]
EvalStep = Callable[[TrainState, Batch | CachedBatch], Float[Array, "batch classes"]]


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    policy: Policy | None,
    size: int,
    normalization: Normalization = IMAGENET,
    mix: Mixer | None = None,
    frozen: frozenset[Path] = frozenset(),
    average: float = 0.0,
) -> TrainStep:
    """A function `(state, batch, key) -> (state, metrics)` that augments, trains and updates.

    `key` is the epoch's; draws are folded with each item's index and with the step, so that any
    step can be run again. `metrics` holds the batch's mean `loss`. Where the state has a factor
    for the loss (float16), a step whose gradient is not finite changes nothing but that factor.

    Args:
        model: called as `model.apply(variables, x, train=True)` on normalized pictures.
        optimizer: its state is the state's `opt_state`.
        loss: mean over the items of logits and labels.
        policy: what `aug_transforms` returns; None takes the centre crop.
        size: side of the network's input, pixels.
        normalization: applied to the augmented pictures.
        mix: `mixup` or `cutmix`, of pictures and a key; None mixes nothing.
        frozen: parameters that stay as they are; no gradient is taken of them.
        average: decay of the state's exponential average of the variables, where it keeps one.
    """

    def train_step(
        state: TrainState, batch: Batch | CachedBatch, key: Key[Array, ""]
    ) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
        batch = batch.open()
        augment_key, dropout_key = jax.random.split(key)
        with jax.named_scope("augment"):
            pictures = augment(policy, batch, augment_key, size)
            if mix is None:
                loss_of_batch = loss
            else:
                # Partners are of the same batch, so this draw cannot come from the items alone.
                mixed = mix(pictures, jax.random.fold_in(augment_key, state.step))
                pictures, loss_of_batch = mixed.pictures, partial(mixed_loss, loss, mixed=mixed)
            pictures = normalize(pictures, normalization)
        trained, fixed = partition(state.params, frozen)

        def loss_of(trained: PyTree) -> tuple[Float[Array, ""], PyTree]:
            logits, updated = model.apply(
                {"params": merge(trained, fixed), "batch_stats": state.batch_stats},
                pictures,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.fold_in(dropout_key, state.step)},
            )
            return loss_of_batch(logits, batch.label), updated.get("batch_stats", {})

        @jax.named_scope("update")
        def advance(grads: PyTree, batch_stats: PyTree) -> TrainState:
            updates, opt_state = optimizer.update(grads, state.opt_state, trained)
            params = merge(optax.apply_updates(trained, updates), fixed)
            after = state.replace(params=params, batch_stats=batch_stats, opt_state=opt_state)
            if state.average is None:
                return after
            variables = {"params": params, "batch_stats": batch_stats}
            # The first steps are far from the last, so that the average begins as a short one.
            decay = jnp.minimum(average, (1.0 + state.step) / (10.0 + state.step))
            return after.replace(
                average=optax.incremental_update(variables, state.average, 1.0 - decay)
            )

        if state.scale is None:
            (value, batch_stats), grads = jax.value_and_grad(loss_of, has_aux=True)(trained)
            after, counted = advance(grads, batch_stats), value
            skipped = jnp.zeros((), jnp.int32)
        else:
            scale, finite, (value, batch_stats), grads = state.scale.value_and_grad(
                loss_of, has_aux=True
            )(trained)
            after = jax.tree.map(partial(jnp.where, finite), advance(grads, batch_stats), state)
            after = after.replace(scale=scale)
            counted, skipped = jnp.where(finite, value, 0.0), 1 - finite.astype(jnp.int32)
        after = after.replace(
            step=state.step + 1,
            epoch_loss=state.epoch_loss + counted,
            epoch_skipped=state.epoch_skipped + skipped,
        )
        return after, {"loss": value}

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
