"""The functions with which processes agree also work in a process that trains alone.

Several processes are tested in tests/test_several_processes.py.
"""

import signal

import jax
import numpy as np
import pytest

from jaxch5.errors import ConfigError, DataError
from jaxch5.training import hosts
from jaxch5.training.interrupts import Interrupts, Terminated


def test_a_process_alone_is_the_first_and_agrees_with_itself():
    assert hosts.is_first()
    assert not hosts.joined()
    assert hosts.gather("text") == ["text"]
    hosts.agree({"seed": 1})
    tree = {"weights": np.ones(3)}
    assert hosts.of_first(tree) is tree
    assert hosts.first_then_others(lambda: 5) == 5


def test_what_differs_is_named(monkeypatch):
    monkeypatch.setattr(hosts, "gather", lambda text: [text, '{"size": 32, "seed": 2}'])
    with pytest.raises(ConfigError, match="seed: 1 in process 0 but 2 in process 1"):
        hosts.agree({"size": 32, "seed": 1})


@pytest.fixture
def two(monkeypatch):
    """Makes this process the first of two.

    Returns a list that gets what the process passes to the other, and "parted" when they part, and
    a list with what the other passes.
    """
    happened, other = [], ["text"]

    def exchange(text):
        happened.append(text)
        return [text, *other]

    monkeypatch.setattr(hosts, "joined", lambda: True)
    monkeypatch.setattr(hosts, "_exchange", exchange)
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: happened.append("parted"))
    return happened, other


def test_an_error_of_one_process_is_passed_to_all(two):
    @hosts.failing_together()
    def begin():
        assert hosts.gather("own") == ["own", "text"]
        raise DataError("gone")

    with pytest.raises(DataError, match="gone"):
        begin()
    assert two[0] == ["own", hosts.FAILED + '[1, "gone"]', "parted"]


def test_an_error_of_another_process_is_raised_here(two):
    """It is raised with its exit status, and is not passed on again."""
    happened, other = two
    other[:] = [hosts.FAILED + '[2, "wrong"]']
    with pytest.raises(hosts.OfAnother) as caught, hosts.failing_together():
        pass
    assert (str(caught.value), caught.value.exit_code) == ("wrong (in process 1)", 2)
    assert happened == ["", "parted"]


def test_alone_a_signal_is_obeyed_at_the_next_check(raise_signal):
    with Interrupts() as interrupts:
        check = hosts.agreed_check(interrupts)
        check()
        raise_signal(signal.SIGTERM)
        assert interrupts.asked == signal.SIGTERM
        with pytest.raises(Terminated):
            check()


def test_only_what_messages_become_is_a_loss(monkeypatch):
    """Only a failed message to another process counts as the loss of that process.

    A defect of jaxch5 must not be mistaken for the end of another process.
    """
    lost = ValueError("UNKNOWN: Gloo all-reduce failed: Connection reset by peer")
    assert not hosts.is_loss_of_another(lost)
    monkeypatch.setattr(hosts, "joined", lambda: True)
    assert hosts.is_loss_of_another(lost)
    assert hosts.is_loss_of_another(jax.errors.JaxRuntimeError("INTERNAL: NCCL operation failed"))
    assert not hosts.is_loss_of_another(ValueError("shapes do not fit"))
