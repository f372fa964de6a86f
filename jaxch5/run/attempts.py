"""Writing what a run leaves: a failure does not end training, and is not forgotten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxch5.errors import CheckpointError


class Attempts:
    """Writes, says what cannot be written, and raises the errors that remain at the end.

    Args:
        say: Function that takes the lines.

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
        """Writes something, and returns whether it could be written."""
        try:
            write(*arguments)
        except CheckpointError as error:
            self.failed[what] = error
            self.say(f"{error}; training goes on")
            return False
        self.failed.pop(what, None)
        return True

    def check(self) -> None:
        """Raises what could not be written when it was last tried.

        Raises:
            CheckpointError: There is such a failure.
        """
        for error in self.failed.values():
            raise error
