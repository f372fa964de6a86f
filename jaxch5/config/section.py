"""Defines a section of the configuration, whose defaults depend on the settings that are given."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from jaxch5.config.applies import Situation, idle
from jaxch5.config.cases import CASES, value_of
from jaxch5.config.toml import deep_update, flat, nested
from jaxch5.util.address import expanded

# Key in the context of a validation. If its value is true, settings without effect are allowed.
LENIENT = "lenient"


def own_default(key: str) -> Any:
    """Returns the default that a setting has if no `Case` gives it another.

    Args:
        key: Dotted name of the setting, in any section that is defined.
    """
    for section in Section.__subclasses__():
        prefix, name = key[: len(section.section)], key[len(section.section) :]
        if prefix == section.section and name in section.model_fields:
            return section.model_fields[name].default
    raise KeyError(key)


def setting(key: str, default: Any, description: str, **bounds: Any) -> Any:
    """Makes a field whose description names the cases in which the setting has another default."""
    for case in CASES:
        if key in case.defaults:
            value = case.defaults[key]
            shown = "on" if value is True else f"{value:g}" if isinstance(value, float) else value
            description += f"; {shown} {case.words}"
    return Field(default, description=description, **bounds)


class Section(BaseModel):
    """Holds settings, each with the value given or else the default that `value_of` chooses.

    `model_fields_set` contains the names of the settings that were given.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    # Prefix of the dotted names of the section's settings.
    section: ClassVar[str] = ""
    # Dotted names of the settings on the command line; `idle` treats them as given even if their
    # values are defaults.
    _named: frozenset[str] = PrivateAttr(frozenset())

    @field_validator("*")
    @classmethod
    def _from_home(cls, value: Any) -> Any:
        """Replaces `~` at the start of a path, which a shell leaves in `--out=~/figures`."""
        return expanded(value) if isinstance(value, Path) else value

    @model_validator(mode="wrap")
    @classmethod
    def _with_defaults(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(values, dict):
            return handler(values)
        values = cls.meant(
            {
                name: value.given() if isinstance(value, Section) else value
                for name, value in values.items()
            }
        )
        given, own = flat(values, cls.section), len(cls.section)
        keys = {key for case in CASES for key in case.defaults if key.startswith(cls.section)}
        defaults = {key[own:]: value_of(key, given, own_default) for key in keys - given.keys()}
        made = handler(deep_update(nested(defaults), values))
        for key in defaults:
            *section, name = key.split(".")
            reduce(getattr, section, made).model_fields_set.discard(name)
        return made

    @model_validator(mode="after")
    def _all_does_something(self, info: ValidationInfo) -> Self:
        if not (info.context or {}).get(LENIENT):
            for line in idle_settings(self).values():
                raise ValueError(line)
        return self

    @classmethod
    def meant(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Adds the settings that the given values imply, so that defaults depend on them too."""
        return values

    def given(self) -> dict[str, Any]:
        """Returns the settings that were given, as nested dictionaries."""
        return self.model_dump(exclude_unset=True)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Returns the settings with some replaced; `update` holds nested dictionaries or sections.

        Settings that were not given get the defaults that go with the new values. Settings that
        were given keep their values, even if they no longer have an effect.

        Example:
            >>> from jaxch5.config.settings import FitConfig
            >>> FitConfig().model_copy(update={"schedule": "fine_tune"}).div
            5.0
        """
        values = deep_update(self.given(), dict(update or {}))
        copied = type(self).model_validate(values, context={LENIENT: True})
        copied._named = self._named
        return copied


def idle_settings(settings: Section, **known: Any) -> dict[str, str]:
    """Returns the given settings that have no effect, each with the reason; see `idle`.

    Args:
        settings: Configuration, or a section of it.
        known: What else is known; see `Situation`.

    Example:
        >>> from jaxch5.config.settings import Config
        >>> config = Config.model_validate({"fit": {"gamma": 3.0}}, context={LENIENT: True})
        >>> idle_settings(config)
        {'fit.gamma': 'fit.gamma = 3.0: only works with fit.loss = focal, not with cross_entropy'}
    """

    def defaults_of(key: str) -> list[Any]:
        """Returns the values that a setting may have without being given."""
        return [own_default(key), *(case.defaults[key] for case in CASES if key in case.defaults)]

    situation = Situation(flat(settings, settings.section), **known)
    return idle(situation, defaults_of, settings._named)
