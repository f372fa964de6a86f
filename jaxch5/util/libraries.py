"""Deals with other libraries: the environment they read, what they log, and objects they create."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Prefixes of the environment variables that libraries read. CUDA_VISIBLE_DEVICES is not among them,
# because an empty value is meant to hide all GPUs.
PREFIXES = ("HF_", "HUGGINGFACE_", "JAX_", "TFDS_", "XDG_", "XLA_")
# Loggers of libraries for checkpoints and for cloud storage. These libraries log errors at length,
# although they raise them too.
LOUD = ("absl", "asyncio", "gcsfs")


def variable(name: str) -> str | None:
    """Returns the value of an environment variable; None if it is unset or empty.

    Example:
        >>> variable("JAXCH5_NO_SUCH_VARIABLE")
    """
    return os.environ.get(name) or None


@contextmanager
def empty_is_unset() -> Iterator[None]:
    """Makes libraries that are imported in this context treat an empty variable as unset.

    Some libraries take an empty value literally: for example, huggingface-hub would keep its files
    in the current folder.

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
    """Makes loggers drop messages below a level, and restores the loggers afterwards.

    Args:
        level: Lowest level of messages that are not dropped.
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

    If saving a checkpoint fails, that is reported once. After that, threads of the library that
    writes checkpoints go on to print many complaints, which no exception handler can catch.
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
    """Makes garbage collection rarer, since most objects that importing jax creates stay alive."""
    threshold = gc.get_threshold()
    gc.set_threshold(50_000)
    try:
        yield
    finally:
        gc.set_threshold(*threshold)
