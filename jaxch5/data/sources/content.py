"""Tells what a file holds, whatever its name is: a server may send a web page instead of a file."""

from __future__ import annotations

import codecs
import os
import re

from jaxch5.data.formats import format_of
from jaxch5.util.text import printable

# Enough bytes to recognize a format or a web page.
FIRST_BYTES = 1024
SHOWN = 40
PAGES = (b"<!doctype html", b"<html", b"<head", b"<body", b"<script")
ARCHIVES = {
    "a zip file": (b"PK\x03\x04", b"PK\x05\x06"),
    "a compressed file": (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"),
    "a 7z archive": (b"7z\xbc\xaf\x27\x1c",),
    "a RAR archive": (b"Rar!",),
}


def head_of(file: str | os.PathLike[str]) -> bytes:
    """Returns a file's first bytes, enough to tell what it is; no bytes if it cannot be read."""
    try:
        with open(file, "rb", buffering=0) as opened:
            return opened.read(FIRST_BYTES)
    except OSError:
        return b""


def kind_of(content: bytes) -> str:
    """Returns what a file's content is, in a few words.

    Args:
        content: The whole content, or its first `FIRST_BYTES`.

    Example:
        >>> kind_of(b""), kind_of(b"\\n<!DOCTYPE html><title>Log in</title>")
        ('an empty file', 'an HTML page')
        >>> kind_of(b'{"error": "rate limit"}'), kind_of(b"version https://git-lfs.github.com")
        ('JSON', "text that begins with 'version https://git-lfs.github.com'")
    """
    if not content:
        return "an empty file"
    if form := format_of(content):
        return f"a picture ({form})"
    for name, beginnings in ARCHIVES.items():
        if content.startswith(beginnings):
            return name
    begin = content[:FIRST_BYTES].removeprefix(b"\xef\xbb\xbf").strip()
    if begin.lower().startswith(PAGES) or b"<html" in begin.lower():
        return "an HTML page"
    if begin.startswith(b"<"):
        return "an XML document"
    try:
        # With `final=False`, since the last character may be cut in two.
        text = codecs.getincrementaldecoder("utf-8")().decode(begin, final=False)
    except UnicodeDecodeError:
        return "of an unknown format"
    if "\0" in text:
        return "of an unknown format"
    if re.match(rb'[{\[]\s*["{\[\]}\d]', begin):
        return "JSON"
    return f"text that begins with '{printable(text[:SHOWN])}'"
