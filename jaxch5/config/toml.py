"""Reads, formats and flattens settings of any pydantic model, and explains errors in them."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Container
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ValidationError

from jaxch5.errors import ConfigError


def deep_update(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Returns a copy of nested dictionaries, updated with the values of `changes`.

    Example:
        >>> deep_update({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
        {'a': {'b': 3, 'c': 2}}
    """
    merged = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = deep_update(merged[key], value) if nested else value
    return merged


def flat(settings: BaseModel | dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the values of settings, or of nested dictionaries, keyed by their dotted names.

    Example:
        >>> from jaxch5.config.settings import Config
        >>> flat(Config())["fit.epochs"]
        5
        >>> flat({"a": {"b": 1, "c": 2}, "d": 3})
        {'a.b': 1, 'a.c': 2, 'd': 3}
    """
    values: dict[str, Any] = {}
    for key, value in settings.items() if isinstance(settings, dict) else settings:
        inner = isinstance(value, dict | BaseModel)
        values |= flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return values


def nested(values: dict[str, Any]) -> dict[str, Any]:
    """Returns nested dictionaries made from values keyed by dotted names: the inverse of `flat`.

    Example:
        >>> nested({"a.b": 1, "a.c": 2, "d": 3})
        {'a': {'b': 1, 'c': 2}, 'd': 3}
    """
    made: dict[str, Any] = {}
    for key, value in values.items():
        first, _, rest = key.partition(".")
        made = deep_update(made, {first: nested({rest: value}) if rest else value})
    return made


def without(values: dict[str, Any], keys: Container[str], prefix: str = "") -> dict[str, Any]:
    """Returns a copy of nested dictionaries without the entries whose dotted names are in `keys`.

    Example:
        >>> without({"a": {"b": 1, "c": 2}}, ["a.b"])
        {'a': {'c': 2}}
    """
    return {
        key: without(value, keys, f"{prefix}{key}.") if isinstance(value, dict) else value
        for key, value in values.items()
        if f"{prefix}{key}" not in keys
    }


def read_toml(path: Path) -> dict[str, Any]:
    """Reads a TOML file as nested dictionaries.

    Raises:
        ConfigError: The file does not exist, cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such configuration file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not a TOML file: {error}") from None


def to_toml(settings: BaseModel) -> str:
    """Returns all settings as TOML, except those that have no value.

    Example:
        >>> from jaxch5.config.settings import Config
        >>> print(to_toml(Config()).splitlines()[0])
        seed = 0
    """
    return tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True))


def known_keys(settings: type[BaseModel], prefix: str = "") -> list[str]:
    """Lists the dotted names of all settings of a model.

    Example:
        >>> from jaxch5.config.settings import Config
        >>> known_keys(Config)[0], known_keys(Config)[-1]
        ('data.path', 'hooks')
    """
    keys = []
    for name, field in settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += known_keys(field.annotation, f"{prefix}{name}.")
        else:
            keys.append(f"{prefix}{name}")
    return keys


def differing(one: BaseModel, other: BaseModel) -> list[str]:
    """Lists the dotted names of the settings in which two models of one class differ.

    Example:
        >>> from jaxch5.config.settings import Config
        >>> differing(Config(), Config(seed=1))
        ['seed']
    """
    values = flat(other)
    return [key for key, value in flat(one).items() if value != values[key]]


def explain(error: ValidationError, keys: list[str]) -> str:
    """Returns a line on pydantic's first error, with the key, its value, and what is allowed."""
    first = error.errors()[0]
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    # Where several types are allowed, pydantic adds a name such as literal['a','b'].
    key = ".".join(part for part in map(str, first["loc"]) if "[" not in part)
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key, keys, n=1)
        return f"{key}: no such setting" + (f"; did you mean {close[0]}?" if close else "")
    if first["type"] == "missing" and first["loc"] and isinstance(first["loc"][-1], int):
        given = ",".join(map(str, first["input"]))
        return f"{key.rpartition('.')[0]} = {given}: too few values ({len(first['input'])})"
    allowed = first["msg"].replace("Input should", "should").split(", unable")[0]
    return f"{key} = {first['input']}: {allowed}"
