"""The state of training: one pytree, all that a step reads and writes."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int32, Key, PyTree


class TrainState(flax.struct.PyTreeNode):
    """What changes from step to step.

    `step` counts the steps done. `epoch_loss` is the sum of the losses since the epoch began: it
    is kept here so that a run taken up in the middle of an epoch reports the whole epoch's loss.
    """

    step: Int32[Array, ""]
    params: PyTree[Float[Array, "..."]]
    batch_stats: PyTree[Float[Array, "..."]]
    opt_state: optax.OptState
    epoch_loss: Float[Array, ""]

    @property
    def variables(self) -> dict[str, PyTree]:
        """What the model's `apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def init_state(
    model: nn.Module, optimizer: optax.GradientTransformation, size: int, key: Key[Array, ""]
) -> TrainState:
    """A state at step 0 with weights drawn from `key`.

    Args:
        model: called as `model.apply(variables, x, train=bool)`.
        optimizer: an optax transformation.
        size: side of the pictures that the model will see, pixels.
        key: root of the initial weights.
    """

    # Run once: compiling dozens of random draws with care would take longer than all they do.
    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": "1"})
    def init(key: Key[Array, ""]) -> TrainState:
        variables = model.init(key, jnp.zeros((1, size, size, 3)), train=False)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            batch_stats=variables.get("batch_stats", {}),
            opt_state=optimizer.init(variables["params"]),
            epoch_loss=jnp.zeros(()),
        )

    return init(key)
