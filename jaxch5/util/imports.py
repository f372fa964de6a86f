"""Imports a user's own objects, such as losses, metrics, tasks and hooks, by import paths."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from jaxch5.errors import ConfigError

# What an import path looks like, for messages and descriptions.
FORM = "package.module:name"


def is_import_path(text: str) -> bool:
    """Checks whether a setting's value has the form of an import path, `package.module:name`.

    Example:
        >>> is_import_path("mypackage.losses:my_loss"), is_import_path("focal")
        (True, False)
    """
    module, _, name = text.partition(":")
    return all(part.isidentifier() for part in [*module.split("."), name])


def check_choice(value: str, known: Sequence[str], setting: str) -> str:
    """Returns the value of a setting if it is a known value or an import path.

    Args:
        value: Value to check.
        known: Known values.
        setting: Name of the setting, for messages.

    Raises:
        ValueError: The value is neither known nor an import path; pydantic catches this error, and
            passes on its message.

    Example:
        >>> check_choice("focal", ("cross_entropy", "focal"), "fit.loss")
        'focal'
    """
    if value not in known and not is_import_path(value):
        allowed = f"{', '.join(known)} or {FORM}"
        raise ValueError(f"{setting} = {value}: should be {allowed}{_hint(value, known)}")
    return value


def check_listed(value: str, known: Sequence[str], setting: str) -> str:
    """Returns the value of a setting if it is a known value.

    Args:
        value, known, setting: See `check_choice`.

    Raises:
        ValueError: The value is not known.

    Example:
        >>> check_listed("lineal", ("linear", "concat_pool"), "model.head")
        Traceback (most recent call last):
        ValueError: model.head = lineal: should be one of linear, concat_pool; did you mean linear?
    """
    if value not in known:
        allowed = f"one of {', '.join(known)}"
        raise ValueError(f"{setting} = {value}: should be {allowed}{_hint(value, known)}")
    return value


def _hint(value: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(value, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def load_object(path: str, setting: str) -> Any:
    """Imports the object that an import path names.

    The module is looked for where `import` looks; in commands, that includes the current folder.

    Args:
        path: `package.module:name`.
        setting: Name of the setting, such as "fit.loss", for messages.

    Raises:
        ConfigError: `path` is not an import path, a module or name is missing, or importing fails.

    Example:
        >>> load_object("math:tau", "fit.lr") > 6
        True
    """
    given = f"{setting} = {path}"
    if not is_import_path(path):
        raise ConfigError(f"{given}: should be an import path, as in {FORM}")
    module_name, name = path.split(":")
    try:
        module = import_module(module_name)
    except Exception as error:
        missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module_name}.".startswith(f"{missing}."):
            raise ConfigError(
                f"{given}: there is no module {missing}; install it or add its folder to PYTHONPATH"
            ) from None
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(f"{given}: importing {module_name} fails: {why}") from error
    try:
        return getattr(module, name)
    except AttributeError:
        hint = _hint(name, dir(module))
        raise ConfigError(f"{given}: {module_name} has no {name}{hint}") from None


def load_function(path: str, setting: str) -> Callable[..., Any]:
    """Imports the function that an import path names; see `load_object`.

    Raises:
        ConfigError: As for `load_object`, or the object cannot be called.

    Example:
        >>> load_function("math:floor", "fit.loss")(1.5)
        1
    """
    found = load_object(path, setting)
    if not callable(found):
        raise ConfigError(
            f"{setting} = {path}: is of type {type(found).__name__}, which cannot be called; name "
            "a function"
        )
    return found
