"""Values that behave alike have equal fingerprints in every process; others have different ones."""

import functools
import inspect
import subprocess
import sys
from dataclasses import dataclass, replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxch5.augmentation import policy
from jaxch5.models import convolution
from jaxch5.util.fingerprint import UnknownError, code_of, fingerprint


def of(value):
    return fingerprint(value, lambda name: name != "elsewhere")


@dataclass(frozen=True)
class Pair:
    one: object
    other: object = 2


ONE = np.float32(1)


def scaled(factor, by=ONE):
    def function(x, offset=factor + 1):
        return x * factor * by + offset

    return function


def other(factor):
    def function(x, offset=factor + 1):
        return x * factor - offset

    return function


def signatures():
    """Returns the code of functions that differ only in the names or the kinds of parameters."""
    one, two, three = lambda a, b: a - b, lambda b, a: b - a, lambda a, *, b: a - b
    return [function.__code__.replace(co_firstlineno=1) for function in (one, two, three)]


DIFFERENT = [
    *signatures(),
    None,
    0,
    False,
    0.0,
    "",
    b"",
    "0",
    (),
    [],
    {},
    (1, 2),
    (1, (2,)),
    ((1,), 2),
    ((1, 1),),
    {"a": 1},
    {"a": 1.0},
    frozenset({"a", "b"}),
    frozenset({"a", "c"}),
    Pair(1),
    Pair(1, 3),
    Pair("1"),
    np.zeros(3, np.float32),
    np.zeros(3, np.int32),
    np.zeros((3, 1), np.float32),
    np.float32(0),
    scaled(1),
    scaled(2),
    scaled(1, by=np.float32(2)),
    other(1),
    functools.partial(scaled(1), offset=1),
    functools.partial(scaled(1), offset=2),
    jnp.tanh,
    jnp.sinh,
    jax.nn.relu,
    nn.Dense(3),
    nn.Dense(4),
    nn.Dense(3, kernel_init=nn.initializers.normal(0.1)),
    nn.Dense(3, kernel_init=nn.initializers.normal(0.2)),
    nn.Dense(3).__call__,
    Pair,
]


def test_different_things_have_different_fingerprints():
    found = [of(value) for value in DIFFERENT]
    assert len(set(found)) == len(DIFFERENT)


@pytest.mark.parametrize(
    ("one", "same"),
    [
        (scaled(3), scaled(3)),
        (frozenset("abcdef"), frozenset("fedcba")),
        (Pair(scaled(1)), replace(Pair(0), one=scaled(1))),
        (nn.Dense(3), nn.Dense(3)),
        (np.arange(3), np.arange(3)),
        (nn.initializers.normal(0.1), nn.initializers.normal(0.1)),
    ],
)
def test_equal_things_have_equal_ones(one, same):
    assert of(one) == of(same)


@pytest.mark.parametrize(
    "strange", [object(), (x for x in "a"), sys, open, Pair(object()), scaled(1, by=object())]
)
def test_what_is_not_known_has_none(strange):
    with pytest.raises(UnknownError):
        fingerprint(strange, lambda name: name in (__name__, "builtins") and strange is not open)


def test_one_that_holds_itself_has_one():
    loop = []
    loop.append(loop)
    assert of(loop) != of([[]])


PROCESS = """
import flax.linen as nn
from jaxch5.augmentation.policy import aug_transforms
from jaxch5.models.registry import create_model
from jaxch5.training.kept import environment_of
from jaxch5.util.fingerprint import fingerprint
value = create_model("resnet18", 3), aug_transforms(), frozenset("abc"), nn.relu
print(fingerprint(value, lambda name: True), environment_of())
"""


def test_other_processes_find_the_same():
    """All processes compute the same fingerprints, and the same `environment_of`.

    The order of sets, and the addresses of objects, differ between processes.
    """
    command = [sys.executable, "-c", PROCESS]
    outputs = {
        subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in "12"
    }
    assert len(outputs) == 1


def test_the_code_of_a_module_is_what_is_in_memory(monkeypatch):
    def found():
        return code_of([policy.__name__], lambda name: name.startswith("jaxch5."))

    before = found()
    assert found() == before
    constant = next(name for name, value in vars(policy).items() if isinstance(value, float))
    with monkeypatch.context() as patch:
        patch.setattr(policy, constant, 0.123)
        assert found() != before
    function = next(name for name, value in vars(policy).items() if inspect.isfunction(value))
    with monkeypatch.context() as patch:
        patch.setattr(policy, function, lambda *_: None)
        assert found() != before
        # The lambda is from a module that is not `known`, so its fingerprint equals no other.
        assert found() != found()
    assert found() == before


def test_the_gradient_of_a_function_is_part_of_it(monkeypatch):
    def found():
        return code_of([convolution.__name__], lambda name: name.startswith(("jaxch5.", "jax.")))

    before = found()
    monkeypatch.setattr(convolution.end_of_block, "bwd", convolution._native_backward)
    assert found() != before
