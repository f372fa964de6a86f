"""A terminal sees a bar with batch, loss and time left; a pipe sees lines only."""

import io
import re

from rich.console import Console

from jaxch5.run.hooks.table import HEADER, Table, format_row
from jaxch5.training.events import Begin, End, Epoch, Ready, Step, StepRecord
from jaxch5.training.plan import plan_at_rate
from jaxch5.util.text import print_line

RECORD = {
    "epoch": 0,
    "train_loss": 1.25,
    "valid_loss": 0.5,
    "accuracy": 0.75,
    "error_rate": 0.25,
    "seconds": 61.0,
    "images_per_second": 1234.5,
}
EVENTS = [
    Begin(0, 2, (), (), (), "", None),
    Ready(0, plan_at_rate(2, 0.1, 0.9, groups=1)),
    Step(1, None, []),
    Step(2, None, [StepRecord(0, 0.5, (0.1,), 0.9), StepRecord(1, 0.4321, (0.1,), 0.9)]),
    Epoch(2, None, [], RECORD),
]


def drawn(events, width=100, **kwargs):
    output = io.StringIO()
    console = Console(file=output, width=width, **kwargs)
    table = Table(console)
    for event in [*events, End(2, None, "finished")]:
        table(event)
    return output.getvalue()


def test_a_pipe_gets_the_tables_lines_only():
    assert drawn(EVENTS) == f"{HEADER}\n{format_row(RECORD)}\n"


def test_a_terminal_gets_a_bar_over_which_the_table_grows():
    assert "batch 2/2  loss 0.4321" in drawn(EVENTS[:4], force_terminal=True)
    text = drawn(EVENTS, force_terminal=True)
    assert format_row(RECORD) in text
    assert "epoch 1" in text
    assert "\x1b[" in text


def test_no_line_is_wider_than_a_narrow_terminal():
    """What does not fit would be broken into a second line, in the middle of a column's name."""
    text = drawn(EVENTS, width=40, force_terminal=True, no_color=True)
    lines = [line.split("\x1b[2K")[-1] for line in re.split("[\r\n]+", text)]
    assert "epoch  train_loss  valid_loss  accuracy" in lines
    assert "    0      1.2500      0.5000    0.7500" in lines
    bar = drawn(EVENTS[:4], width=40, force_terminal=True, no_color=True)
    assert re.search(r"epoch 0 batch 2/2  loss 0\.4321 \d:\d\d:\d\d\s", bar)
    # In a file nothing is lost.
    assert drawn(EVENTS, width=40) == drawn(EVENTS)


def test_a_terminal_that_cannot_go_back_gets_the_tables_lines_only(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert drawn(EVENTS, force_terminal=True) == f"{HEADER}\n{format_row(RECORD)}\n"


def test_a_row_is_as_wide_as_the_header_until_figures_outgrow_it():
    assert len(format_row(RECORD)) == len(HEADER)


def test_names_are_no_markup_and_lines_are_not_broken():
    output = io.StringIO()
    line = "[red]cats[/red] :cat: " + "x" * 200
    print_line(Console(file=output, width=40), line)
    assert output.getvalue() == line + "\n"
