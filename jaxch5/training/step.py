"""Creates training steps and evaluation steps: pure functions that can be compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.training.dynamic_scale import DynamicScale
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, PyTree

from jaxch5.augmentation.center import center
from jaxch5.augmentation.policy import Policy, augment
from jaxch5.batch import Batch, CachedBatch
from jaxch5.framing import Size
from jaxch5.models.layers import normalize
from jaxch5.models.spec import IMAGENET, Normalization
from jaxch5.optim.groups import ParamPath, merge, partition
from jaxch5.optim.optimizer import with_update_due
from jaxch5.training.mesh import mean_of_all, mean_over_devices, number_of_device, over_rows
from jaxch5.training.precision import next_scale
from jaxch5.training.recipe import Recipe
from jaxch5.training.reduction import loss_of_batch
from jaxch5.training.state import TrainState
from jaxch5.view import WHOLE, View

TrainStep = Callable[
    [TrainState, Batch | CachedBatch, Key[Array, ""]],
    tuple[TrainState, dict[str, Float[Array, ""]]],
]
Keys = tuple[Key[Array, ""], Key[Array, ""], Key[Array, ""]]
EvalStep = Callable[[TrainState, Batch | CachedBatch], Float[Array, "batch classes"]]
DrawnEvalStep = Callable[
    [TrainState, Batch | CachedBatch, Key[Array, ""]], Float[Array, "batch classes"]
]


class Weights(NamedTuple):
    """Holds the trained weights, the network's other variables, and float16's loss scale."""

    trained: PyTree
    fixed: PyTree
    batch_stats: PyTree
    scale: DynamicScale | None


class Gradient(NamedTuple):
    """Holds the loss of a batch, the running statistics after it, and the gradient."""

    loss: Float[Array, ""]
    batch_stats: PyTree
    grads: PyTree


def make_train_step(
    model: nn.Module,
    recipe: Recipe,
    policy: Policy | None,
    size: Size,
    normalization: Normalization = IMAGENET,
    optimizer: optax.GradientTransformation | None = None,
    frozen: frozenset[ParamPath] = frozenset(),
    mesh: Mesh | None = None,
    steps_per_epoch: int | None = None,
) -> TrainStep:
    """Returns a function `(state, batch, key) -> (state, metrics)` that augments and trains.

    `key` is the key of the epoch; each draw folds the item's index or the step's number into it, so
    any step can be reproduced. `metrics` holds the batch's mean `loss`. If the state has a loss
    scale, for float16, a step whose gradient is not finite changes only that scale and the step
    counts.

    Args:
        model: Module that is called as `model.apply(variables, x, train=True)` on normalized
            pictures.
        recipe: Recipe that sets the loss, the optimizer, mixing, averaging, and batch norms'
            statistics; with bn="local", each device draws for itself what to mix and what to drop.
        policy: Result of `aug_transforms`; None changes nothing at random, as in evaluation.
        size: Side of the network's input, or its height and width, in pixels.
        normalization: Mean and standard deviation with which the augmented pictures are normalized.
        optimizer: Optimizer that `TrainState.opt_state` belongs to; if None, the recipe's is used.
        frozen: Parameters that stay unchanged; no gradient is computed for them.
        mesh: Devices that share a batch; None stands for one device.
        steps_per_epoch: Number of batches in an epoch. With the recipe's `accumulate`, batches left
            over at the end of an epoch make an update too; None means that none are left over.

    Example:
        >>> from jaxch5.data.block import DataBlock
        >>> from jaxch5.data.source import digits
        >>> from jaxch5.data.split import random_split
        >>> from jaxch5.training.state import init_state
        >>> class Tiny(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x, train):
        ...         return nn.Dense(10, name="head")(x.mean((1, 2)))
        >>> data = DataBlock(digits(), random_split(), presize=8, size=8).load(batch_size=64)
        >>> key, recipe = jax.random.key(0), Recipe(wd=0.1)
        >>> step = jax.jit(make_train_step(Tiny(), recipe, data.augment, data.size))
        >>> state = init_state(Tiny(), recipe, data.size, key)
        >>> state, metrics = step(state, next(iter(data.train)), key)
        >>> int(state.step), metrics["loss"].shape
        (1, ())
    """
    optimizer = optimizer or recipe.make_optimizer()
    # With local batch norms, `over_rows` splits the computation of the whole gradient by rows,
    # otherwise only the augmentation.
    local = mesh if recipe.bn == "local" else None
    # Without `mean_of_all`, devices would sum gradients in the narrow type of the computation.
    narrow = recipe.precision != "fp32" and getattr(model, "leaves_sums", False)
    summed = mesh if narrow and not local else None

    def prepare(batch: Batch | CachedBatch, key: Key[Array, ""]) -> Array:
        return augment(policy, batch.open(), key, size)

    def gradient(batch: Batch | CachedBatch, weights: Weights, keys: Keys) -> Gradient:
        trained, fixed, batch_stats, scale = weights
        augment_key, *others = keys
        if local:
            others = [jax.random.fold_in(other, number_of_device(local)) for other in others]
        mix_key, dropout_key = others
        with jax.named_scope("augment"):
            pictures = over_rows(prepare, None if local else mesh)(batch, augment_key)
        pairs = None
        if recipe.mix is not None:
            mixed = recipe.mix(pictures, mix_key)
            pictures, pairs = mixed.pictures, (mixed.partner, mixed.share)
        pictures = normalize(pictures, normalization)

        def loss_of(trained: PyTree) -> tuple[Float[Array, ""], PyTree]:
            logits, updated = model.apply(
                {"params": merge(trained, fixed), "batch_stats": batch_stats},
                pictures,
                train=True,
                mutable=["batch_stats"],
                # For a random stream that has no key of its own, Flax uses the key named params.
                rngs={"dropout": dropout_key, "params": jax.random.fold_in(dropout_key, 0)},
            )
            value = loss_of_batch(
                recipe.objective, logits, batch.label, pairs, mean_over_devices(local)
            )
            return value, updated.get("batch_stats", {})

        take = jax.value_and_grad if scale is None else scale.value_and_grad

        def taken(trained: PyTree) -> PyTree:
            *_, value, grads = take(loss_of, has_aux=True)(trained)
            return value, grads

        (value, updated), grads = mean_of_all(taken, summed)(trained)
        return Gradient(value, updated, grads)

    mean_gradient = over_rows(gradient, local, mean=True)

    def train_step(
        state: TrainState, batch: Batch | CachedBatch, key: Key[Array, ""]
    ) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
        augment_key, dropout_key = jax.random.split(key)
        # Mixing pairs items of one batch, so its draw cannot depend on single items alone.
        mix_key = jax.random.fold_in(augment_key, state.step)
        keys = augment_key, mix_key, jax.random.fold_in(dropout_key, state.step)
        trained, fixed = partition(state.params, frozen)
        weights = Weights(trained, fixed, state.batch_stats, state.scale)
        value, batch_stats, grads = mean_gradient(batch, weights, keys)

        @jax.named_scope("update")
        def advance(grads: PyTree, batch_stats: PyTree) -> TrainState:
            opt_state = state.opt_state
            if recipe.accumulate > 1:
                length = steps_per_epoch or recipe.accumulate
                opt_state = with_update_due(opt_state, state.step, recipe.accumulate, length)
            updates, opt_state = optimizer.update(grads, opt_state, trained)
            params = merge(optax.apply_updates(trained, updates), fixed)
            after = state.replace(params=params, batch_stats=batch_stats, opt_state=opt_state)
            if state.average is None:
                return after
            variables = {"params": params, "batch_stats": batch_stats}
            # Early weights are far from the last ones, so the average starts with a short window.
            decay = jnp.minimum(recipe.average, (1.0 + state.step) / (10.0 + state.step))
            return after.replace(
                average=optax.incremental_update(variables, state.average, 1.0 - decay)
            )

        after, counted, skipped = advance(grads, batch_stats), value, jnp.zeros((), jnp.int32)
        if state.scale is not None:
            finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads)]).all()
            after = jax.tree.map(partial(jnp.where, finite), after, state)
            after = after.replace(scale=next_scale(state.scale, finite))
            counted, skipped = jnp.where(finite, value, 0.0), 1 - finite.astype(jnp.int32)
        after = after.replace(
            step=state.step + 1,
            epoch_loss=state.epoch_loss + counted,
            epoch_skipped=state.epoch_skipped + skipped,
        )
        return after, {"loss": value}

    return train_step


def make_eval_step(
    model: nn.Module,
    size: Size,
    normalization: Normalization = IMAGENET,
    mesh: Mesh | None = None,
    view: View = WHOLE,
) -> EvalStep:
    """Returns a function `(state, batch) -> logits` for a `view` of each row, including padding."""

    def logits(batch: Batch | CachedBatch, variables: PyTree) -> Float[Array, "batch classes"]:
        pictures = normalize(center(batch.open(), size, view=view), normalization)
        return cast(Array, model.apply(variables, pictures, train=False))

    def eval_step(state: TrainState, batch: Batch | CachedBatch) -> Float[Array, "batch classes"]:
        return over_rows(logits, mesh)(batch, state.variables)

    return eval_step


def make_drawn_eval_step(
    model: nn.Module,
    policy: Policy | None,
    size: Size,
    normalization: Normalization = IMAGENET,
    mesh: Mesh | None = None,
) -> DrawnEvalStep:
    """Returns a function `(state, batch, key) -> logits` for augmented pictures."""

    def logits(
        batch: Batch | CachedBatch, variables: PyTree, key: Key[Array, ""]
    ) -> Float[Array, "batch classes"]:
        pictures = normalize(augment(policy, batch.open(), key, size), normalization)
        return cast(Array, model.apply(variables, pictures, train=False))

    def drawn_eval_step(
        state: TrainState, batch: Batch | CachedBatch, key: Key[Array, ""]
    ) -> Float[Array, "batch classes"]:
        return over_rows(logits, mesh)(batch, state.variables, key)

    return drawn_eval_step
