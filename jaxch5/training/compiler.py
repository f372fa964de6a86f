"""Configures XLA: options for this machine, and the cache of compiled programs."""

from __future__ import annotations

import jax
import platformdirs

from jaxch5.data.parallel import cores

# Makes XLA exclude GPU kernels whose order of addition changes from run to run, and stops it from
# timing the others to choose among them, because another compilation might choose differently.
DETERMINISTIC = {"xla_gpu_deterministic_ops": "True"}
# Options that measurably help, keyed by platform. The option for CPUs makes XLA compute reductions
# with a library. None are known for GPUs yet; benchmarks/gpu.sh tries some.
OPTIONS = {"cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}}


def compiler_options(deterministic: bool = False) -> dict[str, str]:
    """Returns options for `jax.jit(..., compiler_options=...)` on the default device.

    Args:
        deterministic: Whether the same input has to give the same bits; on a CPU it always does.
    """
    platform = jax.default_backend()
    options = known(OPTIONS.get(platform, {}))
    return options | DETERMINISTIC if deterministic and platform != "cpu" else options


def known(options: dict[str, str]) -> dict[str, str]:
    """Returns the options if jaxlib accepts all of them in a trial compilation, else no options.

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

    Commands and notebooks call this function; it configures the entire process. A cache folder that
    is already set, for example by `JAX_COMPILATION_CACHE_DIR`, is kept.

    Example:
        >>> keep_compiled_programs()  # doctest: +SKIP
    """
    if not jax.config.values["jax_compilation_cache_dir"]:
        # A program compiled for one core leaves other cores idle, and JAX's cache does not
        # distinguish programs by the number of cores.
        folder = platformdirs.user_cache_path("jaxch5") / "compiled" / f"{cores()}-cores"
        jax.config.update("jax_compilation_cache_dir", str(folder))
    # A start needs dozens of small programs that compile too fast for JAX to keep them by default.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
