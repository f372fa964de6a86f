"""Defines the state of training: one pytree with all that a step reads and writes."""

from __future__ import annotations

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.dynamic_scale import DynamicScale
from jaxtyping import Array, ArrayLike, Float, Int32, Key, PyTree

from jaxch5.framing import Size, height_and_width
from jaxch5.optim.groups import ParamPath, partition
from jaxch5.optim.optimizer import with_hyperparams
from jaxch5.training.initial import run_once
from jaxch5.training.precision import loss_scale
from jaxch5.training.recipe import Recipe


class TrainState(flax.struct.PyTreeNode):
    """Holds everything that changes from step to step.

    `step` counts the completed steps. `opt_state` covers only the trained parameters. `scale` is
    float16's loss scale, and None for other types. `average` is the exponential average of the
    variables, and None if none is kept. `epoch_skipped` counts the epoch's steps whose gradients
    overflowed, and `epoch_loss` sums the losses of its other steps. Because these two are part of
    the state, a run that is resumed in the middle of an epoch can report on the entire epoch.
    """

    step: Int32[Array, ""]
    params: PyTree[Float[Array, "..."]]
    batch_stats: PyTree[Float[Array, "..."]]
    opt_state: optax.OptState
    scale: DynamicScale | None
    average: PyTree | None
    epoch_loss: Float[Array, ""]
    epoch_skipped: Int32[Array, ""]

    @property
    def variables(self) -> dict[str, PyTree]:
        """Returns the variables to evaluate: the average if one is kept, else the latest."""
        if self.average is not None:
            return self.average
        return {"params": self.params, "batch_stats": self.batch_stats}

    def at_rate(
        self, lr: Float[ArrayLike, "groups"], momentum: Float[ArrayLike, ""] | None = None
    ) -> TrainState:
        """Returns the state with new rates, and optionally a new momentum, for the next step.

        Args:
            lr: Learning rate of each group of layers.
            momentum: Decay of the first moment; None leaves it unchanged.
        """
        values = {"lr": lr} if momentum is None else {"lr": lr, "momentum": momentum}
        values = {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}
        return self.replace(opt_state=with_hyperparams(self.opt_state, **values))


def init_state(
    model: nn.Module,
    recipe: Recipe,
    size: Size,
    key: Key[Array, ""],
    optimizer: optax.GradientTransformation | None = None,
    frozen: frozenset[ParamPath] = frozenset(),
) -> TrainState:
    """Creates a state at step 0 with weights drawn from `key`.

    Args:
        model: Module that is called as `model.apply(variables, x, train=bool)`.
        recipe: Recipe with which the model will be trained.
        size: Side of the pictures that the model will see, or their height and width, in pixels.
        key: Root key for the initial weights.
        optimizer: Optimizer of the trained parameters; if None, the recipe's is used.
        frozen: Parameters that are not trained.

    Example:
        >>> class Tiny(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x, train):
        ...         return nn.Dense(2)(x.mean((1, 2)))
        >>> state = init_state(Tiny(), Recipe(), size=8, key=jax.random.key(0))
        >>> int(state.step), state.params["Dense_0"]["kernel"].shape
        (0, (3, 2))
    """
    optimizer = optimizer or recipe.make_optimizer()

    def init(key: Key[Array, ""]) -> TrainState:
        variables = model.init(key, jnp.zeros((1, *height_and_width(size), 3)), train=False)
        params, batch_stats = variables["params"], variables.get("batch_stats", {})
        copies = jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats})
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=batch_stats,
            opt_state=optimizer.init(partition(params, frozen)[0]),
            scale=loss_scale(recipe.precision),
            average=copies if recipe.average else None,
            epoch_loss=jnp.zeros(()),
            epoch_skipped=jnp.zeros((), jnp.int32),
        )

    return run_once(init, key)


def with_variables(state: TrainState, variables: dict[str, PyTree]) -> TrainState:
    """Returns the state with copies of `variables` as its variables and, if it keeps one, average.

    They are copied because a step consumes its state.
    """
    return state.replace(
        **jax.tree.map(jnp.copy, variables),
        average=None if state.average is None else jax.tree.map(jnp.copy, variables),
    )


def with_fresh_optimizer(
    state: TrainState, optimizer: optax.GradientTransformation, frozen: frozenset[ParamPath]
) -> TrainState:
    """Returns the state with a fresh optimizer state for the parameters that are not frozen."""
    trained, _ = partition(state.params, frozen)
    return state.replace(opt_state=run_once(optimizer.init, trained))


def is_finite(state: TrainState) -> bool:
    """Checks whether every weight and statistic in `state.variables` is a finite number."""
    leaves = jax.tree.leaves(jax.device_get(state.variables))
    return all(bool(np.isfinite(leaf).all()) for leaf in leaves)
