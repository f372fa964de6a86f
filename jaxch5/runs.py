"""`jaxch5 runs [FOLDER]`: lists runs, and shows how they differ."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator
from pydantic_settings import CliPositionalArg

from jaxch5.cli import Options, run
from jaxch5.errors import ConfigError
from jaxch5.util.address import expanded
from jaxch5.util.text import NO_NUMBER, counted, print_line, print_list, print_row

if TYPE_CHECKING:
    from jaxch5.run.history import Found, PastRun

COLUMNS = ("run", "best", "epochs", "state", "set", "arch", "begun")
# Maximum number of curves that are distinguishable in one chart.
MOST_CURVES = 6


class RunsOptions(Options):
    """List the runs of a folder, newest last; given several runs, show how they differ.

    Paths in the folder that are not runs, and runs that are damaged, are counted and named.
    """

    paths: CliPositionalArg[list[str]] = Field(
        ["runs"], description="folder of runs, or runs to compare"
    )
    out: Path | None = Field(
        None, description="HTML file to write, a page with the list, the differences and charts"
    )

    @field_validator("out")
    @classmethod
    def _html(cls, out: Path | None) -> Path | None:
        if out and out.suffix != ".html":
            raise ValueError(f"out = {out}: should end in .html")
        return out


def runs(options: RunsOptions) -> dict[str, Any]:
    """Prints runs and their differences, writes a page if requested, and returns the results."""
    from jaxch5.run.history import differences, find_runs, margins, total_epochs

    paths = [expanded(Path(path)) for path in options.paths]
    for path in paths:
        if not path.is_dir():
            raise ConfigError(
                f"{path}: there is no such folder; name runs that jaxch5 train made, or a folder "
                "of them"
            )
    found = find_runs(paths)
    compared = len(found.runs) > 1 and (len(paths) > 1 or options.out is not None)
    differ = differences(found.runs) if compared else {}
    none: Any = [None] * len(found.runs), True, []
    intervals, same, notes = margins(found.runs) if compared else none
    rows = [
        {
            "run": one.name,
            "best": f"{one.best.metric.replace('_', ' ')} {one.best.shown(one.best_record)}",
            "epochs": f"{len(one.records)}/{total_epochs(one.config.fit)}",
            "state": one.state,
            "set": one.pictures,
            "arch": one.config.model.arch,
            "begun": f"{one.began:%Y-%m-%d %H:%M}",
        }
        for one in found.runs
    ]
    for row, interval in zip(rows, intervals, strict=True):
        if interval:
            row["best"] += " ({:.1f} to {:.1f})".format(*(100 * end for end in interval))
    console = options.console()
    _print_table(console, [dict(zip(COLUMNS, COLUMNS, strict=True)), *rows])
    if compared and len(paths) > 1:
        print_line(console, "")
        table = [{"": key} | _numbered(map(_text, values)) for key, values in differ.items()]
        _print_table(console, [{"": "setting"} | _numbered(row["run"] for row in rows), *table])
        if not differ:
            print_line(console, "no setting differs")
    if any(intervals):
        notes.append("in brackets: Wilson's 95 % interval of the accuracy")
    if not same:
        known = "differ" if same is False else "may differ (the records do not say)"
        notes.append(f"the validation pictures or labels {known}: compare the results with care")
    for note in notes:
        print_line(console, note)
    others = [str(path) for path in found.others]
    print_list(console, "path is not a run", "paths are not runs", others)
    print_list(console, "run cannot be read", "runs cannot be read", [*found.damaged.values()])
    if options.out:
        _write_page(options.out, found, rows, differ, notes)
        print_line(console, f"page  {options.out}")
    elif not found.runs:
        print_line(console, "no runs yet: create one with jaxch5 train")
    return {
        "runs": [
            {
                **row,
                "path": str(one.path),
                "metric": one.best.metric,
                "best": one.best_record.get(one.best.metric),
                "interval": interval,
                "records": one.records,
            }
            for one, row, interval in zip(found.runs, rows, intervals, strict=True)
        ],
        "differ": {key: [*map(_text, values)] for key, values in differ.items()},
        "same_validation": same if compared else None,
        "not_runs": [*map(str, found.others)],
        "damaged": found.damaged,
    }


def _text(value: Any) -> str:
    return NO_NUMBER if value is None else str(value)


def _numbered(values: Any) -> dict[str, str]:
    return {str(number): value for number, value in enumerate(values)}


def _print_table(console: Any, rows: list[dict[str, str]]) -> None:
    widths = {key: max(len(row[key]) for row in rows) for key in rows[0]}
    lines = ["  ".join(f"{row[key]:<{widths[key]}}" for key in row).rstrip() for row in rows]
    for line in lines:
        print_row(console, line, lines[0])


def _write_page(
    out: Path,
    found: Found,
    rows: list[dict[str, str]],
    differ: dict[str, list[Any]],
    notes: list[str],
) -> None:
    """Writes the page, with a link to each run's report.

    Raises:
        CheckpointError: The page cannot be written.
    """
    import os

    from jaxch5.results.page import render_page
    from jaxch5.util.files import write_file

    reports = [
        os.path.relpath(one.path / "report.html", out.parent).replace(os.sep, "/")
        if (one.path / "report.html").is_file()
        else ""
        for one in found.runs
    ]
    page = render_page(
        "runs.html.jinja",
        counted(len(rows), "run"),
        columns=COLUMNS[1:],
        rows=[*zip(rows, reports, strict=True)],
        charts=_charts(found.runs[-MOST_CURVES:]),
        differ={key: [*map(_text, values)] for key, values in differ.items()},
        notes=notes,
        others=found.others,
        damaged=found.damaged,
    )
    write_file(out, page.encode("utf-8"))


def _charts(runs: list[PastRun]) -> list[Any]:
    """Draws the validation loss and the accuracy of runs over their epochs."""
    import math

    from jaxch5.metrics import is_number
    from jaxch5.plots.chart import line_chart

    longest = max((len(one.records) for one in runs), default=0)
    charts = []
    for key, title, unit, times in (
        ("valid_loss", "Validation loss", "loss", 1),
        ("accuracy", "Accuracy", "%", 100),
    ):
        curves = {}
        for one in runs:
            values = [record.get(key) for record in one.records]
            values += [None] * (longest - len(values))
            name = one.name if one.name not in curves else str(one.path)
            curves[name] = [times * v if is_number(v) else math.nan for v in values]
        if longest:
            charts.append(line_chart(title, range(1, longest + 1), curves, "epoch", unit))
    return charts


def main() -> int:
    return run(runs, RunsOptions, "jaxch5 runs")


if __name__ == "__main__":
    sys.exit(main())
