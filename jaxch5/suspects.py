"""`jaxch5 suspects RUN`: finds labels that look wrong in an entire set."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field
from pydantic_settings import CliPositionalArg
from rich.console import Console

from jaxch5.cli import RunOptions, run
from jaxch5.config.settings import MAY_MOVE, OF_THE_RUN
from jaxch5.config.toml import differing, flat
from jaxch5.errors import ConfigError, DataError
from jaxch5.training.interrupts import Terminated
from jaxch5.util.files import to_json, unused, write_file
from jaxch5.util.text import SHOWN, counted, percent, print_line, print_row, printable

if TYPE_CHECKING:
    from jaxch5.config.settings import Config
    from jaxch5.data.source import Source

# Printed if the network that computes the features was trained on labels that are judged.
KNOWS = (
    "{} trained on labels that it now judges, and may have memorized wrong ones; to avoid that, "
    "choose --by training, or name weights trained on other pictures with --model.weights"
)
# Maximum number of class pairs that are printed.
PAIRS = 10
# Kinds of groups whose pictures show the same thing.
ALIKE = ("duplicates", "conflicts", "leaks")
# Name of the folder that holds the results of folds until all folds are done.
FOLDS = "folds"
# Settings that have no effect when labels are judged by features.
OF_TRAINING = ("fit.", "augment.", "data.sampler", "data.cache", "deterministic")


class SuspectsOptions(RunOptions):
    """Judge every label of a set by a model that was not trained on it, and list suspicious ones.

    The pictures are divided into folds, and each fold is judged by a model trained on the others.
    With --by features, that model is a linear layer on a network's features; this takes minutes.
    The network's weights are --model.weights, or those that the run began from; if the run was
    trained from scratch, they are the run's own weights, which may have memorized wrong labels.
    With --by training, the entire network is trained for each fold, with the run's settings.
    """

    run: CliPositionalArg[Path | None] = Field(
        None, description="run whose pictures are judged; without it, --data.path names them"
    )
    by: Literal["features", "training"] = Field(
        "features",
        description="what judges the labels: a linear layer on features, or an entire network",
    )
    folds: int = Field(5, ge=2, le=100, description="number of folds that the set is divided into")
    out: Path | None = Field(
        None,
        description="folder for suspects.json and suspects.csv; by default the run directory or, "
        "without a run, runs/DATE-suspects",
    )


def suspects(options: SuspectsOptions) -> dict[str, Any]:
    """Prints, writes and returns the labels that look wrong, the most doubtful first."""
    from jaxch5.configured import judge_by_training
    from jaxch5.data.parts import TRAIN, VALID
    from jaxch5.data.pictures import pictures_of, with_own_classes, write_pictures
    from jaxch5.data.source import take, without_bad
    from jaxch5.data.verify import find_problems
    from jaxch5.results.out_of_fold import judge_by_heads, stratified_folds
    from jaxch5.results.suspects import described, named
    from jaxch5.run.directory import RunDir, write_config
    from jaxch5.training.process import prepare_process

    prepare_process()
    console = options.console()
    say = partial(print_line, console)
    check_settings(options)
    source, valid = chosen(options, options.settings(), say)
    config = options.settings_with_weights(say)
    if options.by == "features" and config.model.weights == "none" and not options.run:
        raise ConfigError(
            "model.weights = none: features need a trained network; name imagenet, a file or a "
            "run, or choose --by training"
        )
    parts = np.flatnonzero(~valid), np.flatnonzero(valid)
    found = find_problems(source, parts[0], parts[1], Console(stderr=True))
    if found.unreadable and config.data.on_bad == "stop":
        raise without_bad(DataError(next(iter(found.unreadable.values()))))
    if found.unreadable:
        unread = counted(
            len(found.unreadable),
            "picture cannot be read and is",
            "pictures cannot be read and are",
        )
        say(f"{unread} left out")
    readable = [item for item in range(len(source)) if item not in found.unreadable]
    source, valid = with_own_classes(take(source, readable)), valid[readable]
    place = {item: number for number, item in enumerate(readable)}
    alike = [
        (kind, [place[item] for item in items])
        for repeated in (found, found.near)
        for kind in ALIKE
        for items in getattr(repeated, kind)
    ]
    folds = stratified_folds(
        source.labels, options.folds, config.seed, [items for _, items in alike]
    )
    if not (judged := int((folds >= 0).sum())):
        raise DataError(f"{source.name}: no class has pictures in two folds, so none can be judged")
    if alone := len(source) - judged:
        names = sorted({source.classes[label] for label in source.labels[folds < 0]})
        others = counted(len(names) - 1, "other class", "other classes")
        more = f" or {others}" * (len(names) > 1)
        say(
            f"{alone:,} of the labels cannot be judged: no other fold has pictures of {names[0]}"
            f"{more} to compare with"
        )

    out = (
        options.out
        or options.run
        or unused(Path("runs") / f"{datetime.now():%F_%H-%M-%S}-suspects")
    )
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    if options.by == "features":
        features = features_of(options, config, source, folds, say)
        probabilities = judge_by_heads(features, source.labels, folds, len(source.classes))
    else:
        features = None
        try:
            probabilities, kept = judge_by_training(config, source, folds, out / FOLDS, console)
        except (KeyboardInterrupt, Terminated):
            print(printable(f"to resume, repeat the command with --out {out}"), file=sys.stderr)
            raise
    document = {
        "format": 1,
        "by": options.by,
        # A folder that is judged itself is found wherever it is moved to.
        "run": str(options.run.absolute()) if options.run and out != options.run else None,
        "classes": list(source.classes),
        "judged": judged,
        **described(source, valid, np.flatnonzero(folds >= 0), probabilities, features),
        "near_duplicates": [
            {
                "images": [named(source, item) for item in items],
                "labels": [source.classes[label] for label in source.labels[items]],
                "parts": [VALID if valid[item] else TRAIN for item in items],
                "kind": kind,
            }
            for kind, items in alike
        ],
    }
    write_file(out / "suspects.json", (to_json(document) + "\n").encode())
    if not options.run:
        # The folder gets what a run has: the settings, and the record of the pictures and parts.
        write_config(RunDir(out), config)
        write_pictures(
            RunDir(out).pictures_file,
            pictures_of(source, np.flatnonzero(~valid), np.flatnonzero(valid)),
        )
    if options.by == "training":
        shutil.rmtree(kept, ignore_errors=True)
        # A folder of the user's may have the same name.
        with suppress(OSError):
            kept.parent.rmdir()
    # The pictures of a run may have moved, and clean has to be told, too.
    moved = [key for key in MAY_MOVE if options.run and key in options._named]
    where = [(f"--{key.replace('_', '-')}", str(flat(config)[key])) for key in moved]
    show(document, source, out, shlex.join(["jaxch5", "clean", str(out), *chain(*where)]), console)
    return {**document, "out": str(out)}


def check_settings(options: SuspectsOptions) -> None:
    """Refuses settings without effect, settings that the run fixes, and folders of other commands.

    Raises:
        ConfigError: There is such a setting or folder, or there is no such run.
    """
    from jaxch5.run.directory import RunDir, is_run, open_run

    for key in sorted(options._named):
        if options.by == "features" and key.startswith(OF_TRAINING):
            raise ConfigError(f"{key}: only works with --by training; leave it out")
    if not options.run:
        out = RunDir(options.out) if options.out else None
        if out and out.config_file.exists():
            earlier = not is_run(out) and (out.path / "suspects.json").exists()
            if not earlier:
                raise ConfigError(
                    f"out = {out.path}: has a {out.config_file.name}, but is not a folder of "
                    "suspects, and would be written over; name another folder"
                )
        return
    directory, recorded = open_run(options.run)
    for key in differing(options.settings(), recorded):
        section, _, name = key.partition(".")
        free = name not in OF_THE_RUN if section == "data" else key in ("model.weights", "seed")
        if not free and not (key == "model.arch" and "model.weights" in options._named):
            raise ConfigError(
                f"{key}: a run is judged with the settings of {directory.config_file}; only the "
                "location of its pictures (--data.path and the like), --data.on-bad, "
                "--data.batch-size, --model.weights with --model.arch, and --seed may be changed; "
                "to change more, name the pictures with --data.path instead of a run, which "
                "writes to another folder"
            )


def chosen(
    options: SuspectsOptions, config: Config, say: Callable[[str], None]
) -> tuple[Source, np.ndarray]:
    """Returns the pictures to judge, and a mask of those for validation.

    Raises:
        DataError: There are no pictures, or only those of one class.
    """
    from jaxch5.config.building import checked_source, load_source, split_of
    from jaxch5.data.pictures import find, pictures_of, read_pictures, with_own_classes
    from jaxch5.data.source import check_several, take
    from jaxch5.data.split import divide
    from jaxch5.run.directory import RunDir

    pictures = read_pictures(RunDir(options.run).pictures_file) if options.run else None
    if pictures is not None:
        source = load_source(config.data)
        found = find(pictures, pictures_of(source))
        there = found.places >= 0
        if missing := int((~there).sum()):
            say(
                f"left out: {missing:,} of the run's {counted(len(pictures), 'picture')}, which "
                "could not be found"
            )
        if new := int((found.known < 0).sum()):
            say(f"left out: {counted(new, 'picture')} that the run has no record of")
        items, valid = found.places[there], pictures.held_out[there]
    else:
        source = checked_source(config)
        try:
            train, held_out = divide(source, split_of(config.data, source))
        except DataError as error:
            say(f"the pictures are not split, so all count as training pictures: {error}")
            train, held_out = np.arange(len(source)), np.arange(0)
        items = np.union1d(train, held_out)
        valid = np.isin(items, held_out)
        if unused_ := len(source) - len(items):
            say(f"left out: {counted(unused_, 'picture')} not used in training or validation")
    if not len(items):
        raise DataError(
            f"{source.name} has none of the run's pictures; say where they are now with --data.path"
        )
    source = with_own_classes(take(source, items))
    check_several(source)
    return source, valid


def features_of(
    options: SuspectsOptions,
    config: Config,
    source: Source,
    folds: np.ndarray,
    say: Callable[[str], None],
) -> np.ndarray:
    """Computes features of all pictures with the network that the options choose.

    Raises:
        ConfigError: The network has no features.
        WeightsError: Its weights are not available, or do not fit.
    """
    from jaxch5.configured import data_without, learner_of
    from jaxch5.results.predictor import load_learner
    from jaxch5.run.pictures import trained_before

    if config.model.weights == "none":
        assert options.run
        say(KNOWS.format(f"{options.run} was"))
        predictor = load_learner(options.run, options.architecture(), options.task())
    else:
        data = data_without(config, source, folds == 0)
        learn = learner_of(data, config, say)
        sure, possible = trained_before(learn.pretrained, data)
        if sure or possible:
            maybe = "was" if sure else "may have been"
            say(KNOWS.format(f"{config.model.weights} {maybe}"))
        predictor = learn.predictor()
    try:
        return predictor.features_of(source, np.arange(len(source)))
    except ConfigError as error:
        raise ConfigError(f"{error}; choose --by training") from None


def show(
    document: dict[str, Any], source: Source, out: Path, command: str, console: Console
) -> None:
    """Prints the findings; if pictures are files, writes a table and prints the next command."""
    from jaxch5.results.suspects import COLUMNS, write_table

    say, listed = partial(print_line, console), document["suspects"]
    say(
        f"{counted(document['judged'], 'label')} judged: the model agrees with "
        f"{percent(document['agreed'])} of them; the estimated number of wrong labels, "
        f"{document['wrong']:,}, includes the model's own mistakes; {len(listed):,} are listed, "
        f"{sum(one['likely_wrong'] for one in listed):,} of them as likely wrong"
    )
    for label, prediction, count in document["pairs"][:PAIRS]:
        say(f"{count:>7,}  {label} that may be {prediction}")
    names = [
        ("label", "prediction"),
        *((one["label"], one["prediction"]) for one in listed[:SHOWN]),
    ]
    wide, wider = (max(len(printable(pair[side])) for pair in names) for side in (0, 1))
    head = f"{'doubt':>7}  {'label':<{wide}}  {'prediction':<{wider}}  picture"
    for row in [
        head,
        *(
            f"{one['doubt']:7.4f}  {printable(one['label']):<{wide}}  "
            f"{printable(one['prediction']):<{wider}}  {one['image']}"
            for one in listed[:SHOWN]
        ),
    ]:
        print_row(console, row, head)
    if len(listed) > SHOWN:
        say(f"  and {len(listed) - SHOWN:,} more ({out / 'suspects.json'})")
    if source.file is None:
        say("these pictures are not files: correct their labels where they come from")
        return
    table = unused(out / "suspects", ".csv")
    more = ("label_probability", "doubt", "likely_wrong", "part")
    write_table(table, (*COLUMNS, *more), listed)
    say(f"table  {table}")
    say(f"next  {command}")


def main() -> int:
    return run(suspects, SuspectsOptions, "jaxch5 suspects")


if __name__ == "__main__":
    sys.exit(main())
