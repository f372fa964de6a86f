"""Defines what evaluation sees of a picture: which share of it, and through which filter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from jaxch5.errors import ConfigError
from jaxch5.framing import Framing

INTERPOLATIONS = ("bilinear", "bicubic")


@dataclass(frozen=True)
class View:
    """Defines what evaluation and prediction see of a picture; it is stored with the weights.

    Args:
        crop_pct: Share of height and width that is seen, within the largest part of the picture
            that has the input's shape; 1 shows all of that part.
        interpolation: "bilinear", as in training, or "bicubic", Pillow's filter.

    Raises:
        ConfigError: One of the values is not valid.

    Example:
        >>> View(0.95, "bicubic")
        View(crop_pct=0.95, interpolation='bicubic')
    """

    crop_pct: float = 1.0
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if not 0 < self.crop_pct <= 1:
            raise ConfigError(f"data.crop_pct = {self.crop_pct}: should be above 0 and at most 1")
        if self.interpolation not in INTERPOLATIONS:
            known = ", ".join(INTERPOLATIONS)
            raise ConfigError(
                f"data.interpolation = {self.interpolation}: should be one of {known}"
            )


WHOLE = View()


def chosen(crop_pct: float | None, interpolation: str | None, framing: Framing) -> dict[str, Any]:
    """Returns the values chosen for a view, with None for those that the weights decide.

    Example:
        >>> chosen(None, "bicubic", Framing("pad"))  # padding shows the whole picture
        {'crop_pct': 1.0, 'interpolation': 'bicubic'}
    """
    if framing.method != "crop" and crop_pct is None:
        crop_pct = WHOLE.crop_pct
    return {"crop_pct": crop_pct, "interpolation": interpolation}


def view_of(said: Mapping[str, Any], default: View = WHOLE) -> View:
    """Returns the view that settings or a record describe, with defaults for missing values.

    Example:
        >>> view_of({"crop_pct": 0.9, "interpolation": None}, View(0.8, "bicubic"))
        View(crop_pct=0.9, interpolation='bicubic')
    """
    given = ((name, said.get(name)) for name in vars(default))
    return replace(default, **{name: value for name, value in given if value is not None})
