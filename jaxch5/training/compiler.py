"""How XLA compiles: options for this machine, and the cache of compiled programs."""

from __future__ import annotations

import jax

# On a CPU, hands chains of reductions to a library; ResNet-18 trained 1.4 times as fast with it.
CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}


def compiler_options() -> dict[str, str]:
    """Options for `jax.jit(..., compiler_options=...)` on the default device.

    Only some releases of jaxlib know the option, and the others raise on it, so it is tried first.
    """
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda x: x, compiler_options=CPU_OPTIONS).lower(0.0).compile()
    except Exception:
        return {}
    return CPU_OPTIONS
