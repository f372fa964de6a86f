"""`python -m jaxch5.train`: trains a classifier of pictures and says how good it is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pydantic import Field
from rich.console import Console

from jaxch5.cli import Options, Terminated, run
from jaxch5.config import differing
from jaxch5.errors import ConfigError, Jaxch5Error
from jaxch5.training.rundir import (
    create_run,
    discard_run,
    open_run,
    read_skipped,
    write_skipped,
)


class TrainOptions(Options):
    """Train a classifier of pictures. Without arguments: ResNet-18 on scikit-learn's digits."""

    workdir: Path | None = Field(
        None, description="run directory, new or empty; without it, runs/DATE-NAME"
    )
    resume: Path | None = Field(
        None, description="run directory to take up where its last checkpoint was written"
    )

    @classmethod
    def settings_file(cls, given: dict[str, Any]) -> Path | None:
        """A run that is taken up brings its own settings."""
        if "resume" not in given:
            return super().settings_file(given)
        for other in ("config", "workdir"):
            if other in given:
                raise ConfigError(f"--{other}: does not go together with --resume")
        return open_run(Path(given["resume"]))[0].config_file


def train(options: TrainOptions) -> dict[str, Any]:
    """Trains as the options say; returns the last epoch's record and the run directory."""
    from jaxch5.configured import learner_of, total_epochs, train_as_configured
    from jaxch5.data.from_config import load_data, load_source
    from jaxch5.data.source import select
    from jaxch5.data.verify import unreadable
    from jaxch5.training.compiler import keep_compiled_programs
    from jaxch5.training.progress import advice, print_line

    keep_compiled_programs()

    # With --json, standard output belongs to the document; people read the table on the other.
    console = Console(file=sys.stderr if options.json_output else sys.stdout)

    def say(line: str) -> None:
        print_line(console, line)

    config = options.settings()
    if options.resume:
        existing, recorded = open_run(options.resume)
        if changed := differing(config, recorded):
            raise ConfigError(
                f"{changed[0]}: --resume takes every setting from {existing.config_file}; "
                "start a new run to change one"
            )

    source = load_source(config.data)
    skipped: dict[str, str] = {}
    if config.data.on_bad == "skip":
        # A run that is taken up leaves out what it left out before, or its split would change.
        skipped = read_skipped(existing) if options.resume else unreadable(source)
        source = select(
            source, [i for i, name in enumerate(source.references) if name not in skipped]
        )
    if skipped:
        say(f"{len(skipped):,} pictures cannot be read and are left out (skipped.jsonl)")
    data = load_data(config, source)
    say(data.describe())
    if not options.resume:
        config = options.settings_with_weights(say)
    learn = learner_of(data, config)
    learn.console = console
    learn.run = directory = existing if options.resume else create_run(config, options.workdir)
    if skipped and not options.resume:
        write_skipped(directory, skipped)
    if options.resume and learn.restore(directory):
        done, epochs = len(learn.records), total_epochs(config.fit)
        going_on = f"going on after {done} of {epochs} epochs"
        say("this run is finished" if done == epochs else going_on)
    try:
        train_as_configured(learn, config.fit)
    except Jaxch5Error:
        if not learn.records and not options.resume:
            discard_run(directory)
        raise
    except (KeyboardInterrupt, Terminated):
        print(f"go on with --resume {directory.path}", file=sys.stderr)
        raise
    record = learn.record
    if line := advice(learn.records):
        say(line)
    kept = f" (of epoch {record['epoch']}, the best)" if config.fit.keep_best else ""
    say(f"accuracy {100 * record['accuracy']:.2f} %{kept}  {directory.path}")
    return {**record, "run": str(directory.path)}


def main() -> int:
    return run(train, TrainOptions, "python -m jaxch5.train")


if __name__ == "__main__":
    sys.exit(main())
