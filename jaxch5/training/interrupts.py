"""Interrupts: a request to stop is obeyed between two steps, when the state can be saved."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(SystemExit):
    """SIGTERM has come. Uncaught, it ends the process with the status that shells give it."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class StopAtOnce(KeyboardInterrupt):
    """SIGINT has come again: nothing is to be waited for any more."""


class Interrupts:
    """Holds SIGINT and SIGTERM back until `check`; a context manager.

    A second SIGINT is not held back. Python gives signals to the main thread alone; in another
    this does nothing.
    """

    def __init__(self) -> None:
        self._asked: int | None = None
        self._doing: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._hold) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raises what a signal that has come asks for.

        Raises:
            KeyboardInterrupt: SIGINT has come.
            Terminated: SIGTERM has come.
        """
        if self._asked is not None:
            self.obey(self._asked)

    @property
    def asked(self) -> int | None:
        """The signal that has come."""
        return self._asked

    def obey(self, number: int) -> None:
        """Raises what a signal asks for; see `check`."""
        if number == signal.SIGTERM:
            raise Terminated
        raise KeyboardInterrupt

    @contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Work that cannot be broken off: a signal that comes in it is told so at once."""
        self._doing = what
        try:
            yield
        finally:
            self._doing = None

    def _hold(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._asked is not None:
            raise StopAtOnce
        self._asked = number
        if self._doing:
            # Not by print, in the midst of which this may have come.
            os.write(2, f"\n{self._doing}: stopping when that is done\n".encode())
