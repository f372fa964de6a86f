"""How XLA compiles: options for this machine, and the cache of compiled programs."""

from __future__ import annotations

import jax
import platformdirs

from jaxch5.data.parallel import cores

# On a GPU, leaves out kernels that add in an order of their own each time, and does not choose
# among the others by measuring them, which another compilation may decide otherwise.
DETERMINISTIC = {"xla_gpu_deterministic_ops": "True"}
# Of each platform, options that were measured to help there. On a CPU: reductions by a library. Of
# a GPU none is known yet; benchmarks/gpu.sh tries some.
OPTIONS = {"cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}}


def compiler_options(deterministic: bool = False) -> dict[str, str]:
    """Options for `jax.jit(..., compiler_options=...)` on the default device.

    Args:
        deterministic: the same input gives the same bits, which it does on a CPU in any case.
    """
    platform = jax.default_backend()
    options = known(OPTIONS.get(platform, {}))
    return options | DETERMINISTIC if deterministic and platform != "cpu" else options


def known(options: dict[str, str]) -> dict[str, str]:
    """The options, if this release of jaxlib has them all, which says so only by trying; else none.

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
    """Has JAX keep compiled programs in the user's cache folder, so that a second run starts fast.

    For commands and notebooks: it configures the whole process. A folder that is set already, by
    `JAX_COMPILATION_CACHE_DIR` say, stays.

    Example:
        >>> keep_compiled_programs()  # doctest: +SKIP
    """
    if not jax.config.values["jax_compilation_cache_dir"]:
        # What is compiled for one core leaves the others idle, and the cache does not tell them
        # apart: a step of ResNet-18 took 1.13 times as long on two.
        folder = platformdirs.user_cache_path("jaxch5") / "compiled" / f"{cores()}-cores"
        jax.config.update("jax_compilation_cache_dir", str(folder))
    # Starting takes dozens of small programs, each too quick to compile to be kept by default.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
