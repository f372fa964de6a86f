"""Deals with other libraries: the environment that they read, what they log, and their objects."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Prefixes of variables that they read. CUDA_VISIBLE_DEVICES is left out: empty, it hides all GPUs.
PREFIXES = ("HF_", "HUGGINGFACE_", "JAX_", "TFDS_", "XDG_", "XLA_")
# Libraries for checkpoints and for addresses log at length what they also raise.
LOUD = ("absl", "asyncio", "gcsfs")


def variable(name: str) -> str | None:
    """Returns the value of an environment variable; None if it is unset or empty.

    Example:
        >>> variable("JAXCH5_NO_SUCH_VARIABLE")
    """
    return os.environ.get(name) or None


@contextmanager
def empty_is_unset() -> Iterator[None]:
    """Makes libraries that are imported within it treat an empty variable as unset.

    Some treat it as a value: huggingface-hub then keeps its files in the current folder.

    Example:
        >>> with empty_is_unset():
        ...     import huggingface_hub
    """
    empty = [name for name in os.environ if name.startswith(PREFIXES) and not variable(name)]
    for name in empty:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(dict.fromkeys(empty, ""))


@contextmanager
def logging_from(level: int, *names: str) -> Iterator[None]:
    """Silences loggers below a level, and restores them afterwards.

    Args:
        level: Lowest level that is not silent.
        names: Names of the loggers.

    Example:
        >>> with logging_from(logging.ERROR, "absl"):
        ...     logging.getLogger("absl").isEnabledFor(logging.WARNING)
        False
    """
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, before in zip(loggers, levels, strict=True):
            logger.setLevel(before)


@contextmanager
def silent() -> Iterator[None]:
    """Silences libraries, except for the errors that they raise, and restores them afterwards.

    After a save has failed, which is reported once, threads of the storage library go on to
    complain by the dozen, past every handler.
    """
    hook = sys.unraisablehook
    sys.unraisablehook = lambda unraisable: None
    try:
        with logging_from(logging.CRITICAL + 1, *LOUD):
            yield
    finally:
        sys.unraisablehook = hook


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Collects garbage less often: importing jax makes many objects, of which most stay."""
    threshold = gc.get_threshold()
    gc.set_threshold(50_000)
    try:
        yield
    finally:
        gc.set_threshold(*threshold)
