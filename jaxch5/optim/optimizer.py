"""Optimizers whose learning rate and momentum are set before each step."""

from __future__ import annotations

import jax
import optax
from jaxtyping import PyTree


def make_optimizer(
    lr: float = 1e-3,
    momentum: float = 0.95,
    wd: float = 0.01,
    b2: float = 0.99,
    eps: float = 1e-5,
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay, with fastai's constants.

    Learning rate and momentum live in the optimizer's state, so that a schedule changes them
    without a new compilation: see `with_hyperparams`. Biases and the scales and offsets of batch
    norms, all of them vectors, do not decay.

    Args:
        lr: learning rate.
        momentum: decay of the first moment (`b1` of Kingma and Ba, 1412.6980).
        wd: weight decay, a share of the learning rate (Loshchilov and Hutter, 1711.05101).
        b2: decay of the second moment.
        eps: added to the root of the second moment.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = make_optimizer(lr=0.1, wd=0.0)
        >>> params = {"w": jnp.ones((1, 1))}
        >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
        >>> round(float(updates["w"][0, 0]), 4)
        -0.1
    """

    def transformation(
        lr: jax.typing.ArrayLike, momentum: jax.typing.ArrayLike
    ) -> optax.GradientTransformation:
        return optax.chain(
            optax.scale_by_adam(b1=momentum, b2=b2, eps=eps),
            optax.add_decayed_weights(wd, mask=is_matrix),
            optax.scale_by_learning_rate(lr),
        )

    return optax.inject_hyperparams(transformation)(lr=lr, momentum=momentum)


def is_matrix(params: PyTree) -> PyTree:
    """True for the parameters that decay: all but vectors."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def with_hyperparams(opt_state: optax.OptState, **values: jax.typing.ArrayLike) -> optax.OptState:
    """The optimizer's state with other values of `lr` and `momentum` for the next step.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = make_optimizer(lr=0.1)
        >>> state = optimizer.init({"w": jnp.ones((1, 1))})
        >>> float(with_hyperparams(state, lr=0.5).hyperparams["lr"])
        0.5
    """
    return optax.tree_utils.tree_set(opt_state, **values)
