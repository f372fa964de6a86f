"""A number has the same limits in Python as on the command line, whatever its type."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from jaxch5.config.settings import FitConfig, ModelConfig
from jaxch5.config.toml import flat
from jaxch5.errors import ConfigError
from jaxch5.training.recipe import Recipe
from jaxch5.util.limits import LIMITS, WHOLE, check_numbers

VALUES = (-1.0, 0, 0.5, 1, 1.5, 10, 100, 101, 10**6, 10**7, math.inf, -math.inf, math.nan)
SETTINGS = [
    (section, name)
    for section in (FitConfig, ModelConfig)
    for name in section.model_fields
    if name in LIMITS
]


@pytest.mark.parametrize(("section", "name"), SETTINGS, ids=[name for _, name in SETTINGS])
def test_python_refuses_the_values_that_the_command_line_refuses(section, name):
    for value in VALUES:
        # Leniently, because a setting that has no effect would be refused whatever its value.
        try:
            section.model_validate({name: value}, context={"lenient": True})
        except ValidationError:
            with pytest.raises(ConfigError, match=f"^{name} = {value}: should be "):
                check_numbers(**{name: value})
        else:
            check_numbers(**{name: value})


def test_the_settings_that_are_compared_are_many():
    names = {name for _, name in SETTINGS}
    assert names >= {"lr", "wd", "clip", "accumulate", "average", "pct_start", "gamma", "drop_path"}
    assert {name for name in vars(Recipe()) if name in LIMITS} == names & vars(Recipe()).keys()
    assert len(names) > 15


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.array, jnp.array, jnp.float32])
def test_a_number_may_be_of_any_library(kind):
    check_numbers(wd=kind(0.5))
    with pytest.raises(ConfigError, match=r"^wd = 1\.5: should be at least 0 and at most 1$"):
        check_numbers(wd=kind(1.5))


@pytest.mark.parametrize("kind", [int, np.int32, np.array, jnp.array])
def test_a_whole_number_may_be_of_any_library(kind):
    check_numbers(accumulate=kind(4))
    with pytest.raises(ConfigError, match=r"a whole number, at least 1 and at most 1,000,000$"):
        check_numbers(accumulate=kind(0))


@pytest.mark.parametrize("value", [None, "0.5", True, [0.5], np.array([0.5]), slice(0.5), 1j])
def test_what_is_not_one_number_is_refused(value):
    for name in LIMITS:
        with pytest.raises(ConfigError, match=f"^{name} = "):
            check_numbers(**{name: value})


def test_a_number_without_an_upper_limit_is_finite():
    with pytest.raises(ConfigError, match=r"clip = inf: should be a finite number, at least 0$"):
        check_numbers(clip=math.inf)
    with pytest.raises(ConfigError, match=r"a whole number, at least 0$"):
        check_numbers(devices=math.inf)


def test_whole_numbers_are_those_of_the_command_line():
    fields = FitConfig.model_fields | ModelConfig.model_fields
    shared = LIMITS.keys() & fields.keys()
    whole = {name for name in shared if fields[name].annotation in (int, int | None)}
    assert whole == WHOLE & shared
    assert flat(FitConfig(), "fit.").keys() >= {f"fit.{name}" for name in whole}
