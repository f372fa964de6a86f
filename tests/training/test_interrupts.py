"""A signal is held back until a check can obey it, but a second interrupt is obeyed at once."""

import signal
import threading

import pytest

from jaxch5.training.interrupts import Interrupts, StopAtOnce, Terminated


def test_a_signal_waits_for_the_check():
    with Interrupts() as interrupts:
        interrupts.check()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()


def test_termination_ends_a_process_with_the_status_of_its_signal(raise_signal):
    with Interrupts() as interrupts:
        raise_signal(signal.SIGTERM)
        with pytest.raises(Terminated) as ended:
            interrupts.check()
    assert ended.value.code == 143


def test_a_second_interrupt_is_obeyed_at_once():
    with Interrupts():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(StopAtOnce):
            signal.raise_signal(signal.SIGINT)


def test_a_step_that_fails_holds_no_later_interrupt_back():
    def fail():
        raise MemoryError

    with Interrupts() as interrupts:
        with pytest.raises(MemoryError), interrupts.steps():
            interrupts.unbroken(fail)()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(StopAtOnce):
            signal.raise_signal(signal.SIGINT)


def test_what_cannot_be_broken_off_says_so(capfd):
    with Interrupts() as interrupts:
        with interrupts.during("compiling"):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    assert capfd.readouterr().err == "\ncompiling: stopping when that is done\n"


def test_handlers_are_given_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Interrupts():
        pass
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_another_thread_trains_without_signals():
    errors = []

    def train():
        try:
            with Interrupts() as interrupts:
                interrupts.check()
        except ValueError as error:
            errors.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert not errors


def test_a_second_interrupt_waits_until_the_result_of_a_step_is_kept():
    """Python handles a signal when a step returns, which would lose the only state there is."""

    def interrupted(result):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return result

    with Interrupts() as interrupts:
        assert interrupts.unbroken(interrupted)("state") == "state"
        with pytest.raises(StopAtOnce):
            interrupts.kept()
