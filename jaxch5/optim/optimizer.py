"""Optimizers whose learning rate and momentum are set before each step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import ArrayLike, PyTree

from jaxch5.errors import ConfigError
from jaxch5.util.limits import check_numbers


def _adam(momentum: ArrayLike, decay: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.chain(optax.scale_by_adam(momentum, b2=0.99, eps=1e-5), decay)


def _adamw(
    momentum: ArrayLike, decay: optax.GradientTransformation
) -> optax.GradientTransformation:
    return optax.chain(optax.scale_by_adam(momentum), decay)


def _lamb(momentum: ArrayLike, decay: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.chain(optax.scale_by_adam(momentum, eps=1e-6), decay, optax.scale_by_trust_ratio())


def _sgd(momentum: ArrayLike, decay: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.chain(optax.trace(momentum), decay)


# Defaults that recipes share.
LR = 1e-3
OPTIMIZER = "adam"
WD = 0.01
CLIP = 0.0
ACCUMULATE = 1

# Functions that return a transformation from gradients to steps; the steps are multiplied by the
# learning rate later.
OPTIMIZERS: dict[
    str, Callable[[ArrayLike, optax.GradientTransformation], optax.GradientTransformation]
] = {
    "adam": _adam,
    "adamw": _adamw,
    "lamb": _lamb,
    "sgd": _sgd,
}


def make_optimizer(
    name: str = OPTIMIZER,
    lr: float | Sequence[float] = LR,
    momentum: float = 0.95,
    wd: float = WD,
    labels: Callable[[PyTree], PyTree] | None = None,
    clip: float = CLIP,
    accumulate: int = ACCUMULATE,
    no_decay: Collection[str] = (),
) -> optax.GradientTransformation:
    """Makes an optimizer with decoupled weight decay and a learning rate per group of parameters.

    The learning rates and the momentum are part of the optimizer's state, so that a schedule can
    change them without recompiling (see `with_hyperparams`). Weight decay is not applied to biases,
    nor to the scales and offsets of norms (see `is_matrix`).

    Args:
        name: "adam" (Kingma and Ba, 1412.6980) with fastai's constants, b2 = 0.99 and eps = 1e-5;
            "adamw", which is the same with optax's constants, b2 = 0.999 and eps = 1e-8; "lamb"
            (You et al., 1904.00962); or "sgd", which is used with momentum.
        lr: Learning rate, or a sequence of rates, one for each group.
        momentum: Decay rate of the gradients' running mean, or with "sgd" of their running sum.
        wd: Weight decay, which is multiplied by the learning rate (Loshchilov and Hutter,
            1711.05101).
        labels: Function that returns the index of each parameter's group; None makes one group.
        clip: Largest norm that all gradients together may have; if it is exceeded, they are scaled
            down. 0 means that they never are.
        accumulate: Number of steps whose gradients are averaged for one update.
        no_decay: Further parameters without weight decay, given by the last part of their paths.

    Raises:
        ConfigError: There is no such optimizer, or a number is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = make_optimizer(lr=0.1, wd=0.0)
        >>> params = {"w": jnp.ones((1, 1))}
        >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
        >>> round(float(updates["w"][0, 0]), 4)
        -0.1
    """
    if name not in OPTIMIZERS:
        raise ConfigError(f"fit.optimizer = {name}: should be one of {', '.join(OPTIMIZERS)}")
    check_numbers(wd=wd, clip=clip, accumulate=accumulate)
    rates = np.atleast_1d(np.asarray(lr, np.float32))
    decay = optax.add_decayed_weights(wd, mask=partial(is_matrix, but=no_decay))

    def transformation(lr: jax.Array, momentum: ArrayLike) -> optax.GradientTransformation:
        by_group = {group: optax.scale_by_learning_rate(lr[group]) for group in range(len(rates))}
        return optax.chain(
            optax.clip_by_global_norm(clip) if clip else optax.identity(),
            OPTIMIZERS[name](momentum, decay),
            optax.multi_transform(by_group, labels) if labels else by_group[0],
        )

    optimizer = optax.inject_hyperparams(transformation)(lr=rates, momentum=momentum)
    if accumulate == 1:
        return optimizer
    return optax.MultiSteps(optimizer, accumulate).gradient_transformation()


def accumulated(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns an optimizer that collects gradients, and applies their mean when an update is due.

    The optimizer is an `optax.MultiSteps`. Before each step, its state has to be passed through
    `with_update_due`, which records there whether an update is due.
    """
    return optax.MultiSteps(optimizer, lambda steps: steps).gradient_transformation()


def with_update_due(
    opt_state: optax.OptState, step: int | jax.Array, accumulate: int, steps_per_epoch: int
) -> optax.OptState:
    """Records in the state of an `accumulated` optimizer whether the next step makes an update.

    An update is made after every `accumulate` steps of an epoch, and after the last step of the
    epoch if there are steps left over.

    Args:
        opt_state: State of the optimizer.
        step: Number of steps done before this one.
        accumulate: Number of steps whose gradients are averaged for an update.
        steps_per_epoch: Number of training batches in an epoch.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = accumulated(optax.sgd(1.0))
        >>> w, state, values = jnp.zeros(()), optimizer.init(jnp.zeros(())), []
        >>> for step in range(5):
        ...     state = with_update_due(state, step, accumulate=2, steps_per_epoch=5)
        ...     updates, state = optimizer.update(jnp.ones(()), state, w)
        ...     w = optax.apply_updates(w, updates)
        ...     values.append(float(w))
        >>> values
        [0.0, -1.0, -1.0, -2.0, -3.0]
    """
    place = step % steps_per_epoch
    due = ((place + 1) % accumulate == 0) | (place + 1 == steps_per_epoch)
    # How many gradients were added is read from the state and not computed from `step`, because a
    # step that was skipped in float16 has added none.
    summed = optax.tree_utils.tree_get(opt_state, "mini_step")
    return optax.tree_utils.tree_set(opt_state, gradient_step=summed + jnp.where(due, 1, 2))


def is_matrix(params: PyTree, but: Collection[str] = ()) -> PyTree:
    """Marks the parameters with weight decay: all but scalars, vectors, and biases of any shape.

    Args:
        params: Parameters of a network.
        but: Further parameters without weight decay, given by the last part of their paths.

    Example:
        >>> is_matrix({"kernel": np.ones((2, 2)), "bias": np.ones((2, 2)), "scale": np.ones(2)})
        {'bias': False, 'kernel': True, 'scale': False}
    """
    kept = {"bias", *but}
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            leaf.ndim > 1 and jax.tree_util.keystr(path[-1:], simple=True) not in kept
        ),
        params,
    )


def with_hyperparams(opt_state: optax.OptState, **values: jax.typing.ArrayLike) -> optax.OptState:
    """Returns the optimizer's state with new values of `lr` (one per group) and `momentum`.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = make_optimizer(lr=0.1)
        >>> state = optimizer.init({"w": jnp.ones((1, 1))})
        >>> with_hyperparams(state, lr=jnp.array([0.5])).hyperparams["lr"].tolist()
        [0.5]
    """
    return optax.tree_utils.tree_set(opt_state, **values)


def number_of_rates(opt_state: optax.OptState) -> int:
    """Returns how many learning rates an optimizer has, one for each group.

    Example:
        >>> import jax.numpy as jnp
        >>> state = make_optimizer(lr=[0.1, 0.2]).init({"w": jnp.ones((1, 1))})
        >>> number_of_rates(state)
        2
    """
    return len(optax.tree_utils.tree_get(opt_state, "lr"))
