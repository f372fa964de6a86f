"""The generator's reading of a docstring: it knows a section of examples by the plural alone."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Has what stands under `Example:` shown as code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
