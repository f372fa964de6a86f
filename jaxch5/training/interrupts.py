"""Delays interrupts until the end of a step, when the state can be saved."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType, TracebackType
from typing import ParamSpec, TypeVar

SIGNALS = (signal.SIGINT, signal.SIGTERM)

P = ParamSpec("P")
R = TypeVar("R")


class Terminated(SystemExit):
    """Raised on SIGTERM; if uncaught, the process exits with 143, which stands for SIGTERM."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class StopAtOnce(KeyboardInterrupt):
    """Raised on a SIGINT after another SIGINT or a SIGTERM, to stop without waiting."""


@contextmanager
def handled(handler: Callable[[int, FrameType | None], None], *numbers: int) -> Iterator[None]:
    """Installs a signal handler until the context ends; does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            # None stands for a handler that was not installed from Python, which cannot restore it.
            signal.signal(number, signal.SIG_DFL if previous is None else previous)


@contextmanager
def caller_decides() -> Iterator[None]:
    """Leaves the exit status to the code that catches the exceptions raised for signals.

    SIGTERM raises `Terminated`. A KeyboardInterrupt that was caught has no further effect. Without
    this context, CPython under `python -m` would still end the process by SIGINT if the exception
    had passed through `exec` of a string, as it may while a dataclass is being defined.
    """

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    with handled(terminate, signal.SIGTERM):
        try:
            yield
        finally:
            # A successful `exec` clears what the interpreter recorded about an interrupted one.
            exec("")


class Interrupts:
    """Context manager that delays SIGINT and SIGTERM until `check` is called.

    A SIGINT that follows an earlier SIGINT or SIGTERM is delayed only until a step is complete; see
    `unbroken`. Python delivers signals only to the main thread; in another thread this class does
    nothing.
    """

    def __init__(self) -> None:
        self._asked: int | None = None
        self._doing: str | None = None
        self._unbroken = False
        self._at_once = False
        self._handled = ExitStack()

    def __enter__(self) -> Interrupts:
        self._handled.enter_context(handled(self._hold, *SIGNALS))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._handled.close()

    def check(self) -> None:
        """Raises the exception of a received signal, if there is one.

        Raises:
            KeyboardInterrupt: SIGINT was received.
            Terminated: SIGTERM was received.
        """
        if self._asked is not None:
            self.obey(self._asked)

    @property
    def asked(self) -> int | None:
        """The number of the signal that was received; None if there was no signal."""
        return self._asked

    def obey(self, number: int) -> None:
        """Raises the exception of a signal; see `check`."""
        if number == signal.SIGTERM:
            raise Terminated
        raise KeyboardInterrupt

    @contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Marks work that delays a stop; if a signal arrives meanwhile, a printed line says so."""
        self._doing = what
        try:
            yield
        finally:
            self._doing = None

    def unbroken(self, step: Callable[P, R]) -> Callable[P, R]:
        """Wraps a training step so that nothing is raised between its call and `kept`.

        The step consumes a state; if its result were lost, there would be none. Waiting costs
        nothing, since Python cannot handle a signal while a step is computed.
        """

        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            self._unbroken = True
            return step(*args, **kwargs)

        return call

    def kept(self) -> None:
        """Ends what a call of an `unbroken` step began: its result cannot get lost any more.

        Raises:
            StopAtOnce: Meanwhile, a SIGINT was received that should not have been delayed.
        """
        self._unbroken = False
        if self._at_once:
            self._at_once = False
            raise StopAtOnce

    @contextmanager
    def steps(self) -> Iterator[None]:
        """Surrounds calls of `unbroken` steps, so that one that fails delays no later signal.

        Raises:
            StopAtOnce: As `kept` does.
        """
        try:
            yield
        finally:
            self.kept()

    def _hold(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._asked is not None:
            if not self._unbroken:
                raise StopAtOnce
            self._at_once = True
        self._asked = number
        if self._doing:
            # Not with `print`, because the signal may have interrupted a call of `print`.
            os.write(2, f"\n{self._doing}: stopping when that is done\n".encode())
