"""Printed text is readable in terminals, notebooks and files, and nouns agree with their counts."""

import ast
import builtins
import io
import itertools
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import jaxch5
from jaxch5.errors import DataError
from jaxch5.util.text import described, plain_console, print_line, print_row


class ZMQInteractiveShell:
    """A stand-in for what `get_ipython()` returns in a notebook, which rich knows by this name."""


@pytest.mark.parametrize("stderr", [False, True])
def test_a_notebook_gets_lines_of_text(stderr, monkeypatch, capsys):
    """A notebook gets plain text, neither HTML nor a terminal's codes.

    For HTML, rich would need IPython; it would print codes because a kernel sets FORCE_COLOR.
    """
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    console = plain_console(stderr)
    print_line(console, "epoch 0")
    assert not console.is_terminal
    assert capsys.readouterr()[stderr] == "epoch 0\n"


def test_a_table_loses_columns_where_there_is_no_room_and_not_its_lines():
    """A terminal gets as many complete columns as fit, and always the first; a file gets all."""
    head, row = "name  first  second", "cat     0.5     0.7"
    for width, columns in ((19, 19), (18, 11), (11, 11), (4, 4), (2, 4)):
        output = io.StringIO()
        terminal = Console(file=output, width=width, force_terminal=True, no_color=True)
        print_row(terminal, head, head)
        print_row(terminal, row, head)
        assert output.getvalue() == f"{head[:columns]}\n{row[:columns]}\n"
    output = io.StringIO()
    print_row(Console(file=output, width=2), row, head)
    assert output.getvalue() == f"{row}\n"


def test_what_is_counted_has_the_form_that_goes_with_one():
    """No f-string has `pictures` or `others` after a count, since the count may be 1.

    The words may follow a conditional expression, which can choose a text for 1.
    """
    for file in Path(jaxch5.__file__).parent.rglob("*.py"):
        texts = [
            node for node in ast.walk(ast.parse(file.read_text())) if type(node) is ast.JoinedStr
        ]
        for count, after in (pair for text in texts for pair in itertools.pairwise(text.values)):
            if isinstance(after, ast.Constant) and not isinstance(count.value, ast.IfExp):
                assert not re.match(r" (pictures|others)\b", after.value), ast.unparse(count)


class Table:
    """A class that defines no `__repr__`, so that the `repr` of an object contains its address."""


def test_a_description_is_the_same_in_every_process():
    """It contains no object's address and ignores a set's order: both differ between processes."""
    words = {"b", "a", "c"}
    assert described(partial(max, key=Table(), of=words)) == "max(key=Table, of=[a, b, c])"
    assert described([1.0, np.float32(0.5), (True, None)]) == "[1, 0.5, [True, None]]"


TAKE_CLASSES = {
    "explain_loss": lambda classes: jaxch5.explain_loss([0.5, 0.25], 0, classes),
    "Interpretation": lambda classes: jaxch5.Interpretation([0, 1], np.eye(2), classes),
    "Predictor": lambda classes: jaxch5.Predictor(None, {}, classes, None, None),
    "Task.answers": jaxch5.single_label().answers,
    "Recipe.of_pictures": lambda classes: jaxch5.Recipe().of_pictures(np.array([0, 1]), classes),
    "from_arrays": lambda classes: jaxch5.from_arrays(
        np.zeros((2, 4, 4), np.uint8), [0, 1], classes
    ),
}


@pytest.mark.parametrize("name", TAKE_CLASSES)
def test_classes_without_an_order_are_refused_wherever_they_are_taken(name):
    """In another order, the same names would stand for other classes."""
    take = TAKE_CLASSES[name]
    for unordered, line in (
        ({"cat", "dog"}, "classes: set does not number the classes; give a list of names in the"),
        ({"cat": 1, "dog": 0}, "classes: dict does not number the classes"),
        ("ab", "classes: 'ab' is one name; give a list of names"),
    ):
        with pytest.raises(DataError, match=line):
            take(unordered)
    for ordered in (["cat", "dog"], ("cat", "dog"), np.array(["cat", "dog"])):
        take(ordered)
