"""The reference describes every public name in full, on one of its pages."""

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import jaxch5 as jx
from jaxch5.__main__ import commands

ROOT = Path(jx.__file__).parent.parent
PAGES = ROOT / "docs" / "reference"
# Matches a line of a docstring that begins with "of" and so lacks its subject; the pattern allows
# an argument named `of`.
HEADLESS = re.compile(r"\s*(?:of\b(?!:)|\w[\w, ]*: of\b)", re.IGNORECASE)
CLASSES = (jx.Learner, jx.Data, jx.DataBlock, jx.Interpretation, jx.Predictor)


def methods(owner: type) -> dict[str, Any]:
    return {
        f"{owner.__name__}.{name}": member
        for name, member in vars(owner).items()
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
    }


NAMES = {name: getattr(jx, name) for name in jx.__all__}
METHODS = {name: member for owner in CLASSES for name, member in methods(owner).items()}
DESCRIBED = NAMES | METHODS


def described(docstring: str) -> set[str]:
    """Returns the names in the sections "Args" and "Attributes"; a line may have several names."""
    found: set[str] = set()
    for section in re.findall(r"^(?:Args|Attributes):\n((?:    .*\n|\n)+)", docstring + "\n", re.M):
        for names in re.findall(r"^ {4}(\w[\w, ]*):", section, re.M):
            found |= set(names.split(", "))
    return found


def on_pages() -> dict[str, Any]:
    """Returns the objects that the reference shows, by their dotted names."""
    found = {}
    for page in sorted(PAGES.glob("*.md")):
        for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.M):
            module, _, attribute = name.rpartition(".")
            if name == "jaxch5.errors":
                found[name] = import_module(name)
            else:
                found[name] = getattr(import_module(module), attribute)
    return found


@pytest.mark.parametrize("name", DESCRIBED)
def test_every_argument_is_described(name):
    documented = DESCRIBED[name]
    docstring = inspect.getdoc(documented)
    assert docstring, f"{name} has no docstring"
    if isinstance(documented, property):
        return
    arguments = set(inspect.signature(documented).parameters) - {"self"}
    # `vision_learner`, which makes learners, describes their arguments.
    if documented is not jx.Learner:
        assert arguments <= described(docstring), f"{name}: {arguments - described(docstring)}"


def test_an_argument_that_is_left_out_is_found():
    assert described("Adds.\n\nArgs:\n    a, b: of them.\n        c: no.\n") == {"a", "b"}
    assert described("Adds.\n\nRaises:\n    DataError: never.\n") == set()


def headless(code: str) -> list[str]:
    """Returns the lines of a module's docstrings that lack their subject; see `HEADLESS`."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = (node for node in ast.walk(ast.parse(code)) if isinstance(node, kinds))
    lines = (line for node in nodes for line in (ast.get_docstring(node) or "").splitlines())
    return [line for line in lines if HEADLESS.match(line)]


def test_lines_of_docstrings_say_what_they_are_about():
    files = sorted(Path(jx.__file__).parent.rglob("*.py"))
    found = {str(file): headless(file.read_text(encoding="utf-8")) for file in files}
    assert not {file: lines for file, lines in found.items() if lines}


@pytest.mark.parametrize("line", ["Of each link, its file.", "of them.", "seed: of the draws."])
def test_a_line_that_does_not_say_what_it_is_about_is_found(line):
    assert headless(f'"""Adds.\n\n{line}\n"""') == [line]
    assert headless('"""Adds.\n\nArgs:\n    of: Its name, one of the labels.\n"""') == []


@pytest.mark.parametrize("name", NAMES)
def test_everything_has_an_example(name):
    """Every public name has a doctest, which the suite runs; methods may share their class's."""
    assert ">>> " in inspect.getdoc(NAMES[name])


@pytest.mark.parametrize("name", [*NAMES, "errors"])
def test_everything_stands_on_a_page(name):
    documented = getattr(jx, name) if name in NAMES else import_module("jaxch5.errors")
    assert any(shown is documented for shown in on_pages().values())


def test_every_command_stands_on_the_page_of_commands():
    page = (PAGES / "commands.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `([a-z_]+)[ `]", page, re.M))
    assert listed == {*commands()}
