"""XLA knows the options that it is given, and compiled programs are kept for each number of cores.

Without a test, an unknown option for GPUs would raise an error only on a GPU.
"""

import os
import subprocess
import sys

import jax
import pytest

from jaxch5.training.compiler import DETERMINISTIC, OPTIONS, compiler_options


def test_the_options_of_a_gpu_have_names_that_the_compiler_knows():
    jax.jit(lambda x: x, compiler_options=DETERMINISTIC).lower(0.0).compile()
    with pytest.raises(jax.errors.JaxRuntimeError):
        jax.jit(lambda x: x, compiler_options={"xla_gpu_no_such": "True"}).lower(0.0).compile()


def test_a_cpu_gives_the_same_bits_in_any_case():
    assert compiler_options(deterministic=True) == compiler_options()
    assert compiler_options() in ({}, OPTIONS["cpu"])


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_programs_for_one_core_are_not_kept_with_those_for_all():
    """Programs compiled for one core are kept in a folder of their own.

    Such programs leave all other cores idle, and JAX's cache does not distinguish them from
    programs for all cores.
    """
    program = """
import os, sys, jax
from jaxch5.training.compiler import keep_compiled_programs
if sys.argv[1] == "one":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
keep_compiled_programs()
print(jax.config.jax_compilation_cache_dir)
"""
    environment = {name: value for name, value in os.environ.items() if "CACHE_DIR" not in name}
    one, every = (
        subprocess.check_output(
            [sys.executable, "-c", program, which], env=environment, text=True
        ).strip()
        for which in ("one", "all")
    )
    assert one.endswith("1-cores")
    assert every.endswith(f"{len(os.sched_getaffinity(0))}-cores")
