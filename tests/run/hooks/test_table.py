"""A terminal shows a bar with batch, loss and time left; a pipe gets only the table's lines."""

import io
import re

from rich.console import Console

from jaxch5.run.hooks.table import HEADER, Table, format_row
from jaxch5.training.events import Begin, End, Epoch, Ready, Step, StepRecord
from jaxch5.training.plan import plan_at_rate
from jaxch5.util.text import COMPILING, print_line

RECORD = {
    "epoch": 0,
    "train_loss": 1.25,
    "valid_loss": 0.5,
    "accuracy": 0.75,
    "error_rate": 0.25,
    "seconds": 61.0,
    "images_per_second": 1234.5,
}
PLAN = plan_at_rate(2, 0.1, 0.9, groups=1)
ROW = format_row(RECORD, epochs=2)
EVENTS = [
    Begin(0, 2, (PLAN,), (), (), "", None),
    Ready(0, PLAN),
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
    assert drawn(EVENTS) == f"{HEADER}\n{ROW}\n"


def test_a_terminal_gets_a_bar_over_which_the_table_grows():
    assert re.search(r"epoch 1/2 .*batch 1/2", drawn(EVENTS[:3], force_terminal=True))
    text = drawn(EVENTS, force_terminal=True)
    assert ROW in text
    assert "epoch 2/2" in text
    assert "\x1b[" in text


def test_a_terminal_says_what_is_waited_for_and_has_no_bar_for_an_epoch_too_many():
    """The bar says what it waits for: compilation in each phase, validation or the report."""
    last = Epoch(4, None, [], RECORD | {"epoch": 1})
    text = drawn([*EVENTS, Step(3, None, []), Step(4, None, []), last], force_terminal=True)
    waits = [text.index(words) for words in (COMPILING, "validating", "writing the report")]
    assert waits == sorted(waits)
    assert "epoch 3" not in text
    second = PLAN._replace(start=4)
    events = [EVENTS[0]._replace(plans=(PLAN, second)), *EVENTS[1:], last]
    assert drawn(events, force_terminal=True).count(COMPILING) > text.count(COMPILING)
    assert "epoch 1/4" in drawn([*events, Ready(4, second)], force_terminal=True)


def test_no_line_is_wider_than_a_narrow_terminal():
    """Columns that do not fit are left out; a line would otherwise wrap within a column's name."""
    text = drawn(EVENTS, width=40, force_terminal=True, no_color=True)
    lines = [line.split("\x1b[2K")[-1] for line in re.split("[\r\n]+", text)]
    assert "epoch  train_loss  valid_loss  accuracy" in lines
    assert "  1/2      1.2500      0.5000    0.7500" in lines
    step = Step(1, None, [StepRecord(0, 0.4321, (0.1,), 0.9)])
    bar = drawn([*EVENTS[:2], step], width=40, force_terminal=True, no_color=True)
    assert re.search(r"epoch 1/2 batch 1/2  loss 0\.4321 [\d-]:[\d-]+", bar)
    # A file gets all columns, whatever the width.
    assert drawn(EVENTS, width=40) == drawn(EVENTS)


def test_a_terminal_that_cannot_go_back_gets_the_tables_lines_only(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert drawn(EVENTS, force_terminal=True) == f"{HEADER}\n{ROW}\n"


def test_a_row_is_as_wide_as_the_header_until_figures_outgrow_it():
    assert len(format_row(RECORD)) == len(HEADER)


def test_names_are_no_markup_and_lines_are_not_broken():
    output = io.StringIO()
    line = "[red]cats[/red] :cat: " + "x" * 200
    print_line(Console(file=output, width=40), line)
    assert output.getvalue() == line + "\n"
