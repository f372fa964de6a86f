"""Tests that presized pictures are cached in the memory that has room for them."""

import numpy as np
import pytest

from jaxch5.data.canvases import choose_cache, free_on_device
from jaxch5.data.image import canvas_shape
from jaxch5.errors import Jaxch5Error


def test_auto_takes_a_quarter_of_the_free_memory_and_says_so():
    need = 100 * int(np.prod(canvas_shape(40)))
    plenty, little = (lambda: 4 * need + 1000), (lambda: 4 * need - 1000)

    def chosen(cache, memory, device):
        return choose_cache(cache, 100, 40, memory, device)[0]

    assert "free memory" in choose_cache("auto", 100, 40, plenty, lambda: None)[1]
    assert "free on the device" in choose_cache("auto", 100, 40, plenty, plenty)[1]
    assert chosen("auto", plenty, lambda: None) == "memory"
    assert chosen("auto", little, lambda: None) == "off"
    assert chosen("auto", little, plenty) == "device"
    assert chosen("auto", plenty, little) == "memory"
    # On its way to the device, the set is in the host's memory.
    assert chosen("auto", lambda: 2 * need, plenty) == "device"
    assert chosen("auto", lambda: 2 * need - 1000, plenty) == "off"
    assert chosen("memory", little, plenty) == "memory"
    assert chosen("off", plenty, plenty) == "off"
    assert chosen("device", little, lambda: None) == "device"


def test_a_cpu_has_no_memory_of_its_own():
    """On a CPU, a cache on the device would take the same memory as a cache on the host."""
    assert free_on_device() is None


def test_an_unknown_cache_is_named():
    with pytest.raises(Jaxch5Error, match="memroy"):
        choose_cache("memroy", 100, 40, lambda: 10**12, lambda: None)
