"""Configures XLA: options for this machine, and the cache of compiled programs."""

from __future__ import annotations

import jax
import platformdirs

from jaxch5.data.parallel import cores

# Makes XLA exclude GPU kernels whose order of addition changes from run to run, and not choose
# among the others by timing: another compilation might choose others, with another result.
DETERMINISTIC = {"xla_gpu_deterministic_ops": "True"}
# Options that measurably help on a platform: on a CPU, reductions by a library. None are known for
# GPUs yet; benchmarks/gpu.sh tries some.
OPTIONS = {"cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}}


def compiler_options(deterministic: bool = False) -> dict[str, str]:
    """Returns options for `jax.jit(..., compiler_options=...)` on the default device.

    Args:
        deterministic: Whether the same input gives the same bits, as it always does on a CPU.
    """
    platform = jax.default_backend()
    options = known(OPTIONS.get(platform, {}))
    return options | DETERMINISTIC if deterministic and platform != "cpu" else options


def known(options: dict[str, str]) -> dict[str, str]:
    """Returns the options if this jaxlib accepts them all, which only a trial shows; else none.

    Example:
        >>> known({"xla_no_such_option": "1"})
        {}
    """
    if options:
        try:
            jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
        except jax.errors.JaxRuntimeError:
            return {}
    return options


def keep_compiled_programs() -> None:
    """Makes JAX keep compiled programs in the user's cache folder, so a second run starts fast.

    It is for commands and notebooks, as it configures the entire process. A cache folder that is
    already set, for example by `JAX_COMPILATION_CACHE_DIR`, is kept.

    Example:
        >>> keep_compiled_programs()  # doctest: +SKIP
    """
    if not jax.config.values["jax_compilation_cache_dir"]:
        # A program compiled for one core leaves the others idle, and the cache does not distinguish
        # such programs.
        folder = platformdirs.user_cache_path("jaxch5") / "compiled" / f"{cores()}-cores"
        jax.config.update("jax_compilation_cache_dir", str(folder))
    # A start needs dozens of small programs, each too quick to compile to be kept by default.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
