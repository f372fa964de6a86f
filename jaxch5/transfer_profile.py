"""`jaxch5 transfer_profile`: measures which pretrained layers are worth keeping."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator
from rich.console import Console

from jaxch5.cli import Options, PicturesOptions, drawable, run, save_figure
from jaxch5.config.settings import MAY_MOVE, Config
from jaxch5.config.toml import differing
from jaxch5.errors import CheckpointError, ConfigError, Jaxch5Error
from jaxch5.run.directory import PROFILE_RESULTS as RESULTS
from jaxch5.util.files import to_json, write_file
from jaxch5.util.seeds import check_seed
from jaxch5.util.text import print_line

if TYPE_CHECKING:
    from jaxch5.data.block import Data
    from jaxch5.metrics import Record

SCRATCH = "scratch"  # a kind of training; a number stands for training with that many frozen stages
# Settings of the data that the set or the devices decide if they are not given.
DECIDED = ("presize", "batch_size")


class ProfileOptions(PicturesOptions):
    """Freeze a pretrained network up to each of its stages, train the rest, and compare scores."""

    out: Path = Field(
        Path("transfer_profile.png"), description="where to save the figure (PNG, PDF or SVG)"
    )
    workdir: Path | None = Field(
        None,
        description="directory for the results; those that are already there are not computed "
        "again; by default runs/DATE-NAME",
    )
    repeats: int = Field(
        1, ge=1, le=100, description="number of training runs per variant, each with its own seed"
    )

    _out = field_validator("out")(drawable)


def transfer_profile(options: ProfileOptions) -> dict[str, Any]:
    """Trains, draws scores against the number of frozen stages, and returns scores and paths.

    This follows Yosinski et al., 1411.1792: if accuracy falls when a further stage is frozen, the
    features of that stage are specific to the original task; if not, they are general.
    """
    from jaxch5.config.building import with_epochs
    from jaxch5.configured import data_of, recipe_of
    from jaxch5.models.registry import spec_of
    from jaxch5.plots.training import plot_transfer_profile
    from jaxch5.run.directory import (
        RunDir,
        create_run,
        discard_run,
        locked,
        open_run,
        write_skipped,
    )
    from jaxch5.run.pictures import record_pictures
    from jaxch5.training.process import prepare_process

    prepare_process()
    console = options.console()
    say = partial(print_line, console)
    config = settings_of_profile(options, say)
    check_seed(config.seed + options.repeats - 1, "seed + repeats - 1")
    stages = spec_of(config.model.arch).stages
    workdir = options.workdir
    begun = workdir if workdir and RunDir(workdir).config_file.is_file() else None
    if begun:
        directory, recorded = open_run(begun)
        # What is not given stays as it was decided when the run began, by the set or the devices.
        kept = [name for name in DECIDED if name not in config.data.model_fields_set]
        by_default = tuple(f"data.{name}" for name in kept)
        may_change = MAY_MOVE * directory.pictures_file.exists() + by_default
        if changed := [key for key in differing(config, recorded) if key not in may_change]:
            raise ConfigError(
                f"{changed[0]}: the value differs from the one in {begun}; name another --workdir"
            )
        decided = {name: getattr(recorded.data, name) for name in DECIDED}
        config = config.model_copy(update={"data": decided})
    data, skipped = data_of(config, directory if begun else None, say, "name another --workdir")
    if not begun:
        decided = {"presize": data.presize, "batch_size": data.train.batch_size}
        config = config.model_copy(update={"data": decided})
        directory = create_run(config, workdir)
        (directory.path / RESULTS).touch()
    config = with_epochs(config, len(data.train.items))
    with locked(directory):
        try:
            if not begun:
                record_pictures(directory, data)
                write_skipped(directory, skipped)
            by_kind = measure(
                config, data, stages, options.repeats, directory.path / RESULTS, console
            )
        except Jaxch5Error:
            if not begun and not (directory.path / RESULTS).stat().st_size:
                discard_run(directory)
            raise
    scratch = by_kind.pop(SCRATCH)
    frozen = [by_kind[kind] for kind in range(len(stages))]
    best = recipe_of(config).task.best
    figure = plot_transfer_profile(frozen, scratch, stages, best.metric, best.is_share)
    save_figure(figure, options.out)
    print_line(console, f"figure {options.out}  results {directory.path}")
    return {
        "frozen": frozen,
        SCRATCH: scratch,
        "figure": str(options.out),
        "run": str(directory.path),
    }


def measure(
    config: Config,
    data: Data,
    stages: Sequence[str],
    repeats: int,
    file: Path,
    console: Console,
) -> dict[int | str, list[float]]:
    """Trains for the scores that `file` lacks, appends them, and returns all, grouped by kind.

    Raises:
        ConfigError: Results in the file lack the score that is to be compared, since an earlier
            version wrote them and ignored `fit.best`; or a metric has the name of another part of
            the results.
        CheckpointError: A line of the file is damaged.
    """
    from jaxch5.configured import recipe_of
    from jaxch5.metrics import best_by, metric_of

    points = _earlier(file, console) if file.exists() else []
    recipe = recipe_of(config)
    best = recipe.task.best
    shown = dict.fromkeys((best.metric, *(metric_of(one)[0] for one in recipe.metrics)))
    if taken := shown.keys() & {"frozen", "seed"}:
        raise ConfigError(
            f"fit.metrics = {min(taken)}: {RESULTS} has something else under this name; give the "
            "function another name"
        )
    if not all(best.metric in point for point in points):
        raise ConfigError(f"{file}: has results without {best.metric}; name another --workdir")
    if lacking := [name for name in shown if not all(name in point for point in points)]:
        print_line(console, f"{file}: earlier results lack {', '.join(lacking)}")
    results = {
        # JSON has no numbers that are not finite: such a score is null in the file.
        (point["frozen"], point["seed"]): math.nan if (of := point[best.metric]) is None else of
        for point in points
    }
    kinds: list[int | str] = [*range(len(stages)), SCRATCH]
    missing = [
        (kind, seed)
        for seed in range(config.seed, config.seed + repeats)
        for kind in kinds
        if (kind, seed) not in results
    ]
    say = partial(print_line, console)
    for (kind, seed), record in trained(config, data, missing, say):
        results[kind, seed] = record[best.metric]
        point = {"frozen": kind, "seed": seed} | {name: record[name] for name in shown}
        with file.open("a", encoding="utf-8") as opened:
            opened.write(to_json(point) + "\n")
        what = "from scratch" if kind == SCRATCH else f"frozen: {frozen_stages(stages, int(kind))}"
        scores = "  ".join(f"{name} {best_by(name).shown(record)}" for name in shown)
        print_line(console, f"{what:<24} seed {seed}  {scores}")
    return {
        kind: [score for (of_kind, _), score in results.items() if of_kind == kind]
        for kind in kinds
    }


def _earlier(file: Path, console: Console) -> list[dict[str, Any]]:
    """Reads earlier results, and removes a last line that a killed process did not finish."""
    content = file.read_bytes()
    end = content.rfind(b"\n") + 1
    whole, last = content[:end], content[end:]
    try:
        points = [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
        raise CheckpointError(f"{file}: is damaged ({error}); name another --workdir") from None
    if last:
        try:
            points.append(json.loads(last))
            write_file(file, content + b"\n")
        except ValueError:
            write_file(file, whole)
            print_line(console, f"{file}: the last line is incomplete, so its training is repeated")
    return points


def settings_of_profile(options: Options, say: Callable[[str], None]) -> Config:
    """Returns the configuration of a profile: groups are stages, and frozen stages do not change.

    Args:
        options: Options of the command.
        say: Function that takes a line for each setting of a file that a profile does not obey.

    Raises:
        ConfigError: The settings name no pretrained weights, or the command line has a setting
            that a profile cannot obey.
    """
    fixed = {"model": {"groups": "stages", "train_bn": False}, "fit": {"schedule": "one_cycle"}}
    config = options.settings_with(say, always=True, **fixed)
    if config.model.weights in ("none", "auto"):
        raise ConfigError(
            f"model.weights = {config.model.weights}: a profile needs pretrained weights; "
            "name imagenet, a file or a run"
        )
    return config


def frozen_stages(stages: Sequence[str], count: int) -> str:
    """Names the first `count` stages.

    Example:
        >>> stages = ("stem", "layer1", "layer2", "head")
        >>> frozen_stages(stages, 0), frozen_stages(stages, 3)
        ('nothing', 'stem to layer2')
    """
    if count < 2:
        return stages[0] if count else "nothing"
    return f"{stages[0]} to {stages[count - 1]}"


def trained(
    config: Config,
    data: Data,
    points: list[tuple[int | str, int]],
    say: Callable[[str], None],
) -> Iterator[tuple[tuple[int | str, int], Record]]:
    """Trains for each pair of a kind and a seed, and yields the pair with its record."""
    from jaxch5.configured import from_scratch, learner_of, train_as_configured

    learners = {
        which: learner_of(data, settings, say)
        for which, settings in ((False, config), (True, from_scratch(config)))
        if any((kind == SCRATCH) == which for kind, _ in points)
    }
    for kind, seed in points:
        learn = learners[kind == SCRATCH].again(seed)
        learn.console = Console(quiet=True)
        learn.freeze_to(0 if kind == SCRATCH else int(kind))
        train_as_configured(learn, config.fit)
        yield (kind, seed), learn.record


def main() -> int:
    return run(transfer_profile, ProfileOptions, "jaxch5 transfer_profile")


if __name__ == "__main__":
    sys.exit(main())
