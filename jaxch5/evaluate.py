"""`python -m jaxch5.evaluate RUN`: how good a trained classifier is, and where it is wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field
from pydantic_settings import CliPositionalArg

from jaxch5.cli import Options, run, save_figure
from jaxch5.errors import ConfigError
from jaxch5.text import print_line, print_row

if TYPE_CHECKING:
    from jaxch5.data.source import Source

METRICS = ("accuracy", "error_rate", "top_5", "precision", "recall", "f1")
TOP_LOSSES = 9
CONFUSED_SHOWN = 10


class EvaluateOptions(Options):
    """Say how good a trained classifier is, and where it is wrong.

    On the run's validation pictures; or, with --data.path, on all pictures that it names, whose
    classes are the run's.
    """

    run: CliPositionalArg[Path] = Field(description="run directory")
    out: Path | None = Field(
        None, description="folder for the figures and for suspects.csv; without it, RUN/evaluation"
    )
    min_val: int = Field(1, ge=1, description="smallest count of a confusion that is listed")

    @classmethod
    def settings_file(cls, given: dict[str, Any]) -> Path | None:
        """The run brings its settings."""
        from jaxch5.training.rundir import open_run

        return open_run(Path(given["run"]))[0].config_file


def evaluate(options: EvaluateOptions) -> dict[str, Any]:
    """Prints tables, writes figures and a list of suspect labels; returns the figures' numbers."""
    from jaxch5.data.from_config import load_data, load_source
    from jaxch5.data.source import remarks
    from jaxch5.insight.metrics import metric_of
    from jaxch5.interpretation import interpretation_of
    from jaxch5.predictor import load_learner
    from jaxch5.training.process import prepare_process
    from jaxch5.training.rundir import open_run

    prepare_process()
    console = options.console()
    directory, recorded = open_run(options.run)
    predictor, config = load_learner(options.run), options.settings()
    if config.data == recorded.data:
        data = load_data(config)
        source, items = data.source, data.valid.items
    else:
        source = with_classes(load_source(config.data), predictor.classes)
        items = np.arange(len(source))
    probabilities = predictor.probabilities_of(source, items)
    interp = interpretation_of(source, items, probabilities, source.labels[items])

    scores = {
        name: function(probabilities, interp.targets)
        for name, function in map(metric_of, METRICS)
        if name != "top_5" or len(interp.classes) > 5
    }
    scores["calibration_error"] = interp.expected_calibration_error()
    report, confused = interp.classification_report(), interp.most_confused(options.min_val)
    out = options.out or directory.path / "evaluation"
    out.mkdir(parents=True, exist_ok=True)
    figures = {
        "confusion_matrix": interp.plot_confusion_matrix(),
        "top_losses": interp.plot_top_losses(min(TOP_LOSSES, len(interp))),
        "calibration": interp.plot_calibration(),
    }
    for name, figure in figures.items():
        save_figure(figure, out / f"{name}.png")
    if source.file is not None:
        interp.write_suspects(unused(out / "suspects.csv"))
    head, *lines = str(report).splitlines()
    for line in (head, *lines):
        print_row(console, line, head)
    for name, score in scores.items():
        print_line(console, f"{name:<18} {score:.4f}")
    for actual, predicted, count in confused[:CONFUSED_SHOWN]:
        print_line(console, f"{count:>5}  {actual} taken for {predicted}")
    for remark in remarks(source):
        print_line(console, remark)
    print_line(console, f"figures  {out}")
    return {
        **scores,
        "pictures": len(interp),
        "classes": list(interp.classes),
        "confusion_matrix": interp.confusion_matrix().tolist(),
        "most_confused": confused,
        "figures": str(out),
    }


def unused(path: Path) -> Path:
    """The path, or one beside it with a number: a person may have mended labels in the old file."""
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_name(f"{path.stem}-{number}{path.suffix}"), number + 1
    return candidate


def with_classes(source: Source, classes: tuple[str, ...]) -> Source:
    """The source with its labels as places in other class names.

    Raises:
        ConfigError: a class of the source is not among them.
    """
    from dataclasses import replace

    unknown = [name for name in source.classes if name not in classes]
    if unknown:
        raise ConfigError(
            f"data: class {unknown[0]} is none that the run knows ({', '.join(classes)})"
        )
    places = np.array([classes.index(name) for name in source.classes], np.int32)
    return replace(source, classes=classes, labels=places[source.labels])


def main() -> int:
    return run(evaluate, EvaluateOptions, "python -m jaxch5.evaluate")


if __name__ == "__main__":
    sys.exit(main())
