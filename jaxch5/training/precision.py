"""Defines the type in which the network computes, and keeps small gradients from vanishing.

Weights, batch statistics, logits, loss and optimizer are always float32 (Micikevicius et al.,
1710.03740).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from flax.training.dynamic_scale import DynamicScale
from jaxtyping import Array, Bool

from jaxch5.errors import ConfigError

DTYPES: dict[str, Any] = {"fp32": jnp.float32, "bf16": jnp.bfloat16, "fp16": jnp.float16}


def dtype_of(precision: str) -> Any:
    """Returns the type in which the network computes.

    Args:
        precision: "fp32", "bf16" or "fp16".

    Raises:
        ConfigError: There is no such precision, or the processor cannot compute in float16.

    Example:
        >>> dtype_of("bf16").__name__
        'bfloat16'
    """
    if precision not in DTYPES:
        raise ConfigError(f"model.precision = {precision}: should be one of {', '.join(DTYPES)}")
    if precision == "fp16" and not has_float16():
        raise ConfigError(
            "model.precision = fp16: this processor cannot compute in float16; choose "
            "--model.precision bf16 or fp32"
        )
    return DTYPES[precision]


def precision_of(module: Any) -> str:
    """Returns the precision of a module that was not made by `create_model`.

    A module states it by its attribute `dtype`; without one, it counts as "fp32".

    Example:
        >>> import flax.linen as nn
        >>> precision_of(nn.Dense(2, dtype=jnp.bfloat16)), precision_of(nn.Dense(2))
        ('bf16', 'fp32')
    """
    made_with = getattr(module, "dtype", None)
    return next((name for name, dtype in DTYPES.items() if dtype == made_with), "fp32")


@cache
def has_float16() -> bool:
    """Checks whether XLA can compute in float16; on CPUs without F16C it lacks the conversions."""
    try:
        jax.jit(lambda x: x.astype(jnp.float16) * 2)(jnp.ones(())).block_until_ready()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def loss_scale(precision: str) -> DynamicScale | None:
    """Returns the factor by which the loss is scaled for the gradient; None if none is needed.

    float16 has five exponent bits, so small gradients would become zero. The factor is halved when
    a gradient overflows (the step is then skipped), and doubled after 2,000 steps without an
    overflow. bfloat16 has the exponent bits of float32 and needs no factor.

    Example:
        >>> loss_scale("bf16"), float(loss_scale("fp16").scale)
        (None, 65536.0)
    """
    if precision != "fp16":
        return None
    return DynamicScale(fin_steps=jnp.int32(0), scale=jnp.float32(2.0**16))


def next_scale(scale: DynamicScale, finite: Bool[Array, ""]) -> DynamicScale:
    """Returns the factor to use after a step, depending on whether its gradient was finite.

    Example:
        >>> float(next_scale(loss_scale("fp16"), jnp.bool_(False)).scale)
        32768.0
    """
    # Flax applies this rule only to gradients that it computes itself, so it is given a function
    # whose gradient is 1, or NaN if the gradient of the step was not finite.
    as_gradient = jnp.where(finite, 1.0, jnp.nan)
    return scale.value_and_grad(lambda x: x * as_gradient)(jnp.ones(())).dynamic_scale
