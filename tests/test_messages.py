"""The commands, options, extras and names that messages and pages mention exist."""

import ast
import importlib
import io
import json
import re
import tomllib
from contextlib import redirect_stdout, suppress
from functools import cache
from pathlib import Path

import pytest

import jaxch5
from jaxch5.__main__ import commands
from jaxch5.cli import Options, parse
from jaxch5.config.command_line import ALIASES, parser_of

PACKAGE = Path(jaxch5.__file__).parent
ROOT = PACKAGE.parent
MODULES = sorted(PACKAGE.rglob("*.py"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += [*sorted((ROOT / "configs").glob("*.toml")), *sorted((ROOT / "notebooks").glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
COMMANDS = list(commands())
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*(?:\.[a-z][a-z0-9-]*)?(?<!-)(?!\w|-|\.\{)")
ERRORS = {name for name in vars(importlib.import_module("jaxch5.errors")) if "Error" in name}
# Stands for an inserted value in the text of a message.
VALUE = "{}"


def text_of(node):
    """Returns a string's text, with `{}` for inserted values, or None if `node` is not a string."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.Constant) else VALUE for part in node.values)
        return "".join(map(str, parts))
    return None


def strings_in(tree):
    """Returns the strings in some code; the parts of an f-string are not repeated."""
    within = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node)
        if part is not node
    }
    nodes = (node for node in ast.walk(tree) if id(node) not in within)
    return [text for node in nodes if (text := text_of(node)) is not None]


@cache
def strings(file):
    """Returns every string of a module: docstrings, messages and all others."""
    return strings_in(ast.parse(file.read_text(encoding="utf-8")))


@cache
def texts():
    """Returns all texts that users may read, keyed by the file that contains them."""
    found = {str(file.relative_to(ROOT)): strings(file) for file in MODULES}
    found |= {str(page.relative_to(ROOT)): [page.read_text(encoding="utf-8")] for page in PAGES}
    for notebook in NOTEBOOKS:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        found[str(notebook.relative_to(ROOT))] = ["".join(cell["source"]) for cell in cells]
    return found


def options_of(command):
    """Returns the class of a command's options."""
    module = importlib.import_module(f"jaxch5.{command}")
    (found,) = {
        one
        for one in vars(module).values()
        if isinstance(one, type) and issubclass(one, Options) and one.__module__ == module.__name__
    } or {Options}
    return found


@cache
def options(command):
    """Returns the options that a command accepts."""
    said = io.StringIO()
    with redirect_stdout(said), suppress(SystemExit):
        parse(options_of(command), ["--help-all"], command)
    return {*OPTION.findall(said.getvalue()), "--help", "--help-all"}


@cache
def known(command):
    """Returns the options that a command recognizes, including those that it refuses."""
    actions = parser_of(options_of(command), command).root_parser._actions
    return {name for action in actions for name in action.option_strings} | {*ALIASES, "--help-all"}


@cache
def imports(file):
    """Returns a module and the modules of ours that it imports, also within functions."""
    named = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            named |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    paths = {ROOT / Path(*name.split(".")).with_suffix(".py") for name in named}
    return {file} | paths & set(MODULES)


def names_in(node):
    """Yields the names that some code uses.

    For an attribute, these are `.attribute`, since it may belong to any object, and
    `name.attribute`, since `name` may be a module.
    """
    for one in ast.walk(node):
        if isinstance(one, ast.Name):
            yield one.id
        elif isinstance(one, ast.Attribute):
            yield f".{one.attr}"
            if isinstance(one.value, ast.Name):
                yield f"{one.value.id}.{one.attr}"


@cache
def parts():
    """Returns functions, classes and constants of the package, keyed by file and name.

    Each value consists of the names that the part uses, the names by which it can be used, and its
    syntax tree.
    """
    found = {}
    for file in MODULES:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
            names = [getattr(node, "name", None), *(getattr(one, "id", None) for one in targets)]
            methods = node.body if isinstance(node, ast.ClassDef) else []
            called = {f".{one.name}" for one in methods if isinstance(one, ast.FunctionDef)}
            for name in filter(None, names):
                called |= {name, f"{file.stem}.{name}"}
                found[file, name] = (set(names_in(node)), called, node)
    return found


@cache
def reached_by(command):
    """Returns the parts of the package that a command uses, directly or through other parts."""
    found, left = set(), {part for part in parts() if part[0] == PACKAGE / f"{command}.py"}
    while left:
        found |= left
        left = {
            part
            for origin in left
            for part, (_, names, _) in parts().items()
            if part[0] in imports(origin[0]) and names & parts()[origin][0]
        } - found
    return found


def messages_of(tree):
    """Returns the messages of the errors in some code."""
    return [
        text
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS
        for argument in node.args
        for text in strings_in(argument)
    ]


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_an_option_that_is_named_is_there(file):
    there = set().union(*map(options, COMMANDS))
    assert {option for text in strings(file) for option in OPTION.findall(text)} <= there


@pytest.mark.parametrize("command", COMMANDS)
def test_a_message_names_options_of_the_command_that_prints_it(command):
    """The options in an error's message belong to the command that prints it.

    Options of another command follow that command's name.
    """
    for part in sorted(reached_by(command)):
        for message in messages_of(parts()[part][2]):
            named = re.sub(r"jaxch5 \w+[^;:]*", "", message)
            assert set(OPTION.findall(named)) <= known(command), (part[1], message)


def command_lines(text):
    """Returns the command lines in a text, each as the command's name and its arguments."""
    joined = text.replace("\\\n", " ")
    found = re.findall(r"(`|\$ |^ +)?\bjaxch5 (\w+)([^`\n#|;&]*)", joined, re.M)
    # Outside code, "jaxch5" may be the subject of a sentence; NAME stands for any command.
    return [
        (name, arguments)
        for code, name, arguments in found
        if name in COMMANDS or (code and name not in ("command", "NAME", "COMMAND"))
    ]


@pytest.mark.parametrize("file", sorted(texts()))
def test_a_command_that_is_named_is_there_and_has_its_options(file):
    for text in texts()[file]:
        for command, arguments in command_lines(text):
            assert command in COMMANDS, command
            assert set(OPTION.findall(arguments)) <= options(command), (command, arguments)


@pytest.mark.parametrize("file", sorted(texts()))
def test_an_option_that_a_page_names_is_there(file):
    """The settings that a page names exist.

    Settings are the options with a dot; `--no-` turns a setting off.
    """
    for text in texts()[file]:
        dotted = {option for option in OPTION.findall(text) if "." in option}
        assert {option.replace("--no-", "--", 1) for option in dotted} <= options("train")


@pytest.mark.parametrize("file", sorted(texts()))
def test_an_extra_that_is_to_be_installed_can_be(file):
    """The extras that a text names exist, and are installed from a clone.

    jaxch5 is not published on any package index.
    """
    for text in texts()[file]:
        assert "jaxch5[" not in text
        for extra in re.findall(r"'\.\[([\w,-]+)\]'", text):
            assert set(extra.split(",")) <= set(EXTRAS)


@pytest.mark.parametrize("file", sorted(texts()))
def test_a_name_of_ours_is_exported(file):
    for text in texts()[file]:
        assert set(re.findall(r"\bjx\.(\w+)", text)) <= set(jaxch5.__all__)


# The errors of these files occur only in Python, where arrays, losses and modules are passed.
PYTHON_ALONE = {
    "data/labels.py",
    "data/picture.py",
    "learner.py",
    "losses.py",
    "training/reduction.py",
}
# A call, or a public name that is not an English word.
CODE = re.compile(
    r"\bjx\.|\bjaxch5\.[A-Z]|\w\(\)|\.\w+\("
    + "".join(rf"|\b{name}\b" for name in sorted(jaxch5.__all__) if "_" in name)
)


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_message_that_a_command_prints_names_no_function(file):
    if str(file.relative_to(PACKAGE)) in PYTHON_ALONE:
        return
    for message in messages_of(ast.parse(file.read_text(encoding="utf-8"))):
        # The prefix of errors that occur only in Python and the value of a setting are allowed.
        message = message.removeprefix("from_arrays: ").replace("fit.loss = cross_entropy", "")
        assert "in Python" in message or not CODE.search(message), message
