"""Renders self-contained pages, and defines their frame, security policy and number formats.

A page embeds its pictures, its style and its script, sends no requests, and treats the names of
classes and files as untrusted text.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from typing import Any

import jinja2

from jaxch5.metrics import is_number
from jaxch5.plots.chart import CANVAS
from jaxch5.plots.embed import TINY_SIDE
from jaxch5.plots.training import shortened
from jaxch5.util import text
from jaxch5.util.text import NO_NUMBER, printable

# Control characters except tabs and line feeds, including those that change the writing
# direction, and surrogates, which stand for bytes of file names that are not valid text.
HIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def render_page(template: str, title: str, **values: Any) -> str:
    """Renders a template in this folder with the style and the script that all pages share.

    Args:
        template: File name of the template, which extends `page.html.jinja`.
        title: Title of the page.
        values: The template's other variables.
    """
    environment = _environment()
    palette, style, script = (
        _source(environment, name) for name in ("palette.css", "report.css", "report.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = environment.get_template(template).render(
        title=title, style=palette + style, script=script, script_hash=f"sha256-{digest}", **values
    )
    return HIDDEN.sub(lambda found: printable(found[0]), page)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxch5.results", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "fixed": _fixed,
        "percent": percent,
        "clock": clock,
        "shortened": shortened,
    }
    environment.globals |= {"canvas": CANVAS, "tiny": TINY_SIDE}
    return environment


def _source(environment: jinja2.Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _fixed(value: float | None, digits: int = 4) -> str:
    return f"{value:.{digits}f}" if is_number(value) else NO_NUMBER


def percent(value: float | None, digits: int = 1) -> str:
    """Formats a share as a percentage.

    Example:
        >>> percent(0.0625).split(), percent(float("nan")) == NO_NUMBER
        (['6.2', '%'], True)
    """
    if not is_number(value):
        return NO_NUMBER
    return text.percent(value, digits).replace(" ", "\N{NO-BREAK SPACE}")


def clock(seconds: float) -> str:
    """Formats a time as minutes and seconds, or hours, minutes and seconds.

    Example:
        >>> clock(64.2), clock(3725)
        ('1:04', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
