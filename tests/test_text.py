"""What is printed for people, in a terminal and in a notebook."""

import builtins

import pytest

from jaxch5.text import plain_console, print_line


class ZMQInteractiveShell:
    """By this name of `get_ipython()`'s class rich knows a notebook."""


@pytest.mark.parametrize("stderr", [False, True])
def test_a_notebook_gets_lines_of_text(stderr, monkeypatch, capsys):
    """Not HTML, for which rich would need IPython, nor what a kernel's FORCE_COLOR asks for."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    console = plain_console(stderr)
    print_line(console, "epoch 0")
    assert not console.is_terminal
    assert capsys.readouterr()[stderr] == "epoch 0\n"
