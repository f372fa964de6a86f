"""`jaxch5 show`: shows the data as the network gets it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from jaxch5.cli import PicturesOptions, drawable, run, save_figure
from jaxch5.util.text import print_line


class ShowOptions(PicturesOptions):
    """Show the data as the network gets it: a summary, and a figure of a batch."""

    out: Path = Field(Path("batch.png"), description="where to save the figure (PNG, PDF or SVG)")
    nrows: int = Field(3, ge=1, le=50, description="rows of pictures")
    ncols: int = Field(4, ge=1, le=50, description="pictures per row")
    unique: bool = Field(False, description="draw one picture many times instead of many pictures")

    _out = field_validator("out")(drawable)


def show(options: ShowOptions) -> dict[str, Any]:
    """Prints the summary, writes the figure, and returns the summary and the figure's path."""
    from jaxch5.config.building import load_data
    from jaxch5.training.process import prepare_process

    prepare_process()
    console = options.console()
    config = options.settings()
    data = load_data(config)
    lines = []
    for line in data.stages():
        print_line(console, line)
        lines.append(line)
    figure = data.show_batch(options.nrows, options.ncols, options.unique, seed=config.seed)
    save_figure(figure, options.out)
    print_line(console, f"figure    {options.out}")
    return {"summary": lines, "figure": str(options.out)}


def main() -> int:
    return run(show, ShowOptions, "jaxch5 show")


if __name__ == "__main__":
    sys.exit(main())
