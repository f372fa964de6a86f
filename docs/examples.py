"""Shows the examples of docstrings on the site, whose generator knows only `Examples:`."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Makes the generator show what is under `Example:` as code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
