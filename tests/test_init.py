"""Every public name of the package exists, and libraries are imported only when they are used."""

import subprocess
import sys

import pytest

import jaxch5


@pytest.mark.parametrize("name", jaxch5.__all__)
def test_every_public_name_can_be_had(name):
    assert getattr(jaxch5, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = jaxch5.nonsense


def test_prediction_does_without_the_pipeline_of_training():
    """Importing the predictor does not import the libraries that only training and plots use.

    A command that classifies one picture spends most of its time on imports.
    """
    modules = "{'grain', 'matplotlib', 'sklearn'}"
    code = f"import sys, jaxch5.results.predictor; print({modules} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "set()"
