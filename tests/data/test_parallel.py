"""Tests that parallel work yields results in order, and has only a few items in progress."""

import os
import time

from jaxch5.data.parallel import AHEAD, in_order


def test_results_come_in_the_order_of_the_items():
    def slow(number):
        time.sleep(0.002 * (number % 5))
        return number

    assert list(in_order(slow, range(50))) == list(range(50))


def test_a_large_set_does_not_wait_in_a_queue():
    asked = 0

    def items():
        nonlocal asked
        for number in range(10_000):
            asked += 1
            yield number

    results = in_order(str, items())
    next(results)
    assert asked <= AHEAD * (os.cpu_count() or 1) + 1
    results.close()
