"""Addresses, which paths would spoil: `pathlib` makes one slash of two."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


class Address(str):
    """The address of files that fsspec reaches; in a configuration it stands beside `pathlib.Path`.

    Example:
        >>> Address("s3://bucket/flowers").name
        'flowers'
    """

    __slots__ = ()

    @property
    def name(self) -> str:
        """The last part, as of a path."""
        return PurePosixPath(self).name

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema())


def is_address(place: object) -> bool:
    """Checks whether something that stands for a place is an address and not a path.

    Example:
        >>> is_address("s3://bucket/flowers"), is_address("photos/flowers")
        (True, False)
    """
    return isinstance(place, str) and re.match(r"(?i)[a-z][a-z0-9+.-]*://", place) is not None
