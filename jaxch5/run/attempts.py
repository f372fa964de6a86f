"""Writes a run's files so that a failure neither ends training nor is forgotten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxch5.errors import CheckpointError


class Attempts:
    """Calls functions that write, and reports failures; `check` raises the first unresolved one.

    Args:
        say: Function that takes a line about each failure.

    Example:
        >>> def write(full):
        ...     if full:
        ...         raise CheckpointError("metrics.jsonl: cannot be written")
        >>> attempt = Attempts(print)
        >>> attempt("metrics", write, True), list(attempt.failed)
        metrics.jsonl: cannot be written; training goes on
        (False, ['metrics'])
        >>> attempt("metrics", write, False), list(attempt.failed)
        (True, [])
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.failed: dict[str, CheckpointError] = {}

    def __call__(self, what: str, write: Callable[..., None], *arguments: Any) -> bool:
        """Calls `write` with the arguments, and returns whether it succeeded."""
        try:
            write(*arguments)
        except CheckpointError as error:
            self.failed[what] = error
            self.say(f"{error}; training goes on")
            return False
        self.failed.pop(what, None)
        return True

    def check(self) -> None:
        """Raises the error of the first write whose latest attempt failed, if there is one.

        Raises:
            CheckpointError: Something could not be written.
        """
        for error in self.failed.values():
            raise error
