"""`jaxch5 evaluate RUN`: says how good a classifier is, and where it is wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field
from pydantic_settings import CliPositionalArg

from jaxch5.cli import RunOptions, run, save_figure
from jaxch5.config.toml import differing
from jaxch5.errors import ConfigError, DataError
from jaxch5.util.files import from_here, unused
from jaxch5.util.text import counted, percent, print_line, print_row

if TYPE_CHECKING:
    from jaxch5.config.settings import Config
    from jaxch5.data.scoring import Scored
    from jaxch5.data.source import Source

# Scores in addition to the metrics of the task and of the run.
MORE = ("top_5", "precision", "recall", "balanced_accuracy", "f1")
TOP_LOSSES = 9
CONFUSED_SHOWN = 10
# Settings of the data that may differ from the run's settings without naming another set.
OF_READING = ("on_bad", "batch_size", "range", "max_pixels", "tfds_dir")


class EvaluateOptions(RunOptions):
    """Say how good a trained classifier is, and where it is wrong.

    The pictures that the run recorded as its validation set are scored; --data.path says where they
    are now. If fewer than half of them are certain to be in the set that it names, every picture of
    that set is scored instead.
    """

    run: CliPositionalArg[Path] = Field(description="run directory")
    out: Path | None = Field(
        None, description="folder for the figures and for suspects.csv; by default RUN/evaluation"
    )
    pictures: Literal["validated", "all"] | None = Field(
        None,
        description="validated (the default for the run's own set): the validation pictures that "
        "are still there; all (the default for another set): every picture, even those that the "
        "run was trained on",
    )
    min_val: int = Field(1, ge=1, description="how often two classes must be confused to be listed")


def evaluate(options: EvaluateOptions) -> dict[str, Any]:
    """Scores a run: prints tables, writes figures and suspect labels, and returns the numbers."""
    from jaxch5.data.pictures import with_classes
    from jaxch5.data.source import remarks, take
    from jaxch5.data.verify import unreadable
    from jaxch5.metrics import decide
    from jaxch5.plots.mistakes import plot_selection
    from jaxch5.results.advice import advise, in_lines
    from jaxch5.results.calibration import select
    from jaxch5.results.interpretation import interpretation_of
    from jaxch5.results.predictor import load_learner
    from jaxch5.run.directory import open_run
    from jaxch5.task import NAMED, OF_COMMANDS, computed, task_of
    from jaxch5.training.process import prepare_process

    prepare_process()
    console = options.console()
    directory, recorded = open_run(options.run)
    config = options.settings()
    if of_run := {"model.arch", "model.task"}.intersection(differing(config, recorded)):
        raise ConfigError(f"{min(of_run)}: {directory.config_file} sets this; leave it out")
    task = task_of(config.model.task, config.model.threshold)
    own = task.scores(config.fit.metrics)
    for name in sorted(OF_COMMANDS.intersection(own)):
        # An earlier version began the run; `train` refuses such names.
        del own[name]
        words = "is left out, since evaluate prints something else under this name"
        print_line(console, f"the run's metric {name} {words}")
    predictor = load_learner(options.run, options.architecture(), task)
    # Among five classes, the label is always one of the five most probable.
    more = [name for name in MORE if name != "top_5" or len(predictor.classes) > 5]
    source, scored = chosen(options, config, recorded)
    source, counts, line = take(source, scored.items), scored.counts, scored.line
    if config.data.on_bad == "skip" and (bad := unreadable(source)):
        readable = [item for item, name in enumerate(source.references) if name not in bad]
        counts = {**counts, "unreadable": len(source) - len(readable)}
        left_out = counted(counts["unreadable"], "cannot be read and is", "cannot be read and are")
        line += f"; {left_out} left out"
        source = take(source, readable)
    print_line(console, line)
    if not len(source):
        raise DataError(f"{options.run}: there is no picture to score")
    source = with_classes(source, predictor.classes)
    items = np.arange(len(source))
    given = config.data.batch_size != recorded.data.batch_size
    rows = {"batch_size": config.data.batch_size} if given else {}
    probabilities = predictor.probabilities_of(source, items, **rows)
    shown = task, predictor.about.framing, predictor.about.size
    interp = interpretation_of(source, items, probabilities, source.labels[items], *shown)

    scores = computed(task.scores(more) | own, probabilities, interp.targets)
    scores["calibration_error"] = interp.expected_calibration_error()
    report, confused = interp.classification_report(), interp.most_confused(options.min_val)
    out = options.out or directory.path / "evaluation"
    out.mkdir(parents=True, exist_ok=True)
    figures = {
        "confusion_matrix": interp.plot_confusion_matrix(),
        "top_losses": interp.plot_top_losses(min(TOP_LOSSES, len(interp))),
        "calibration": interp.plot_calibration(),
    }
    suggestion = {}
    if task.threshold:
        selection = select(interp.confidences, decide(interp.probabilities) == interp.targets)
        threshold = selection.suggested()
        answered, error = selection.at(threshold)
        suggestion = {"threshold": threshold, "answered": answered, "error_of_answers": error}
        marks = {"suggested": threshold, "the run's": task.threshold}
        figures["unanswered"] = plot_selection(selection, marks)
    for name, figure in figures.items():
        save_figure(figure, out / f"{name}.png")
    if source.file is not None:
        # An earlier evaluation's file is kept, since a person may have written notes in it.
        interp.write_suspects(unused(out / "suspects", ".csv"))
    head, *lines = str(report).splitlines()
    for line in (head, *lines):
        print_row(console, line, head)
    if report.absent:
        print_line(console, f"no pictures of: {', '.join(report.absent)}")
    for name, score in scores.items():
        print_line(console, f"{name:<18} {score:.4f}")
    for actual, predicted, count in confused[:CONFUSED_SHOWN]:
        print_line(console, f"{count:>5}  {actual} taken for {predicted}")
    if suggestion and task.name in NAMED:
        print_line(
            console,
            f"--model.task {task.name} --model.threshold {threshold:g} leaves "
            f"{percent(1 - answered)} unanswered, and {percent(error)} of the answers are wrong; "
            "predict, demo, evaluate and export accept these options",
        )
    for remark in remarks(source):
        print_line(console, remark)
    print_line(console, f"figures  {out}")
    advice = []
    if scored.part == "validated":
        judged = (directory.path / "suspects.json").exists()
        # Advice to evaluate the run is left out: doing so again would show nothing new.
        found = advise(str(from_here(directory.path)), recorded, interp, judged=judged)
        advice = [one for one in found if one.command.split()[1] != "evaluate"]
    for line in in_lines(advice):
        print_line(console, line)
    return {
        **scores,
        "pictures": len(interp),
        "scored": {"part": scored.part, **counts},
        "classes": list(interp.classes),
        "answers": list(interp.answers),
        "absent": list(report.absent),
        "confusion_matrix": interp.confusion_matrix().tolist(),
        "most_confused": confused,
        "suggested": suggestion or None,
        "advice": [one._asdict() for one in advice],
        "figures": str(out),
    }


def chosen(options: EvaluateOptions, config: Config, recorded: Config) -> tuple[Source, Scored]:
    """Returns the pictures that the options name, and which of them are scored.

    Raises:
        ConfigError: `--pictures validated` is given, but the run has no record of the pictures
            that it was validated on.
        DataError: There are no pictures to score.
    """
    from jaxch5.config.building import load_source, split_of
    from jaxch5.data.pictures import find, pictures_of, read_pictures
    from jaxch5.data.recognition import recognize
    from jaxch5.data.scoring import holds_own, score_all, score_drawn_again, score_validated
    from jaxch5.data.source import leave_out
    from jaxch5.run.directory import RunDir, home_of, read_skipped

    run, source = RunDir(options.run), load_source(config.data)
    pictures, data = read_pictures(run.pictures_file), config.data
    where = str(data.path or data.tfds or data.archive or "the digits")
    elsewhere = any(key not in OF_READING for key in differing(data, recorded.data))
    if pictures is None:
        if options.pictures == "validated":
            raise ConfigError(
                f"{options.run} has no {run.pictures_file.name}, which records the pictures that "
                "the run validated on; use --pictures all, or train again"
            )
        if elsewhere or options.pictures == "all":
            return source, score_all(len(source), None, None, where)
        if skipped := read_skipped(run):
            source = leave_out(source, skipped)
        return source, score_drawn_again(split_of(data, source)(source)[1])
    now = pictures_of(source)
    if elsewhere:
        found = recognize(pictures, now, source.file, home_of(recorded.data))
    else:
        found = find(pictures, now)
    which = options.pictures
    if which is None:
        which = "validated" if not elsewhere or holds_own(pictures, found) else "all"
    if which == "all":
        return source, score_all(len(source), pictures, found, where)
    return source, score_validated(pictures, found, where)


def main() -> int:
    return run(evaluate, EvaluateOptions, "jaxch5 evaluate")


if __name__ == "__main__":
    sys.exit(main())
