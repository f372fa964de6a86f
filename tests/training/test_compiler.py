"""Options for the compiler are known to it: an unknown one would be an error on a GPU alone."""

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
