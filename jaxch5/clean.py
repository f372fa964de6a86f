"""`jaxch5 clean RUN`: corrects labels on a page, with one key per answer."""

from __future__ import annotations

import os
import shlex
import sys
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field
from pydantic_settings import CliPositionalArg

from jaxch5.cli import RunOptions, run
from jaxch5.config.settings import MAY_MOVE, Config
from jaxch5.config.toml import deep_update, differing, to_toml, without
from jaxch5.errors import ConfigError
from jaxch5.run.directory import RunDir, is_run, locked, open_run
from jaxch5.training.interrupts import Terminated
from jaxch5.util.address import expanded
from jaxch5.util.files import to_json
from jaxch5.util.loopback import HOST, listening, serve
from jaxch5.util.text import counted, print_line

if TYPE_CHECKING:
    from jaxch5.data.source import Source
    from jaxch5.results.answers import AnswerLog
    from jaxch5.results.cleaner import Looks
    from jaxch5.results.corrections import Row
    from jaxch5.results.predictor import Predictor

SUSPECTS, ANSWERS, LABELS = "suspects.json", "answers.jsonl", "labels.csv"
# Settings that find, label and split pictures; labels.csv takes the place of all of them.
OF_THE_SET = (
    *("path", "archive", "sha256", "tfds", "tfds_dir", "root", "pattern", "train", "valid"),
    *("image_column", "label_column", "split", "split_column"),
    *("valid_fraction", "stratify", "split_seed"),
)


class CleanOptions(RunOptions):
    """Correct suspicious labels on a web page, with one key per answer.

    The page, which only this machine can open, shows the findings of jaxch5 suspects, the most
    doubtful labels first. Each answer is saved in RUN/answers.jsonl before the page confirms it,
    and no picture is changed. RUN/labels.csv lists the pictures with the corrected labels, and
    RUN/labels.toml has the settings for training on them; both are written on request and when the
    command ends.
    """

    run: CliPositionalArg[Path] = Field(
        description="run directory, or the folder that jaxch5 suspects wrote to"
    )
    port: int = Field(7861, ge=0, le=65535, description="port of the page; 0 picks a free one")
    write: bool = Field(False, description="write labels.csv with the answers so far, and exit")
    unsure: Literal["keep", "drop"] = Field(
        "keep",
        description="what to do with pictures that were answered with 'not sure': keep them "
        "unchanged, or drop them",
    )

    @classmethod
    def settings_of_run(cls, path: Path) -> Path | None:
        """Returns the run's settings file; None if neither `path` nor suspects.json names a run."""
        directory = _run_of(path)
        return directory.config_file if directory.config_file.is_file() else None


def clean(options: CleanOptions) -> dict[str, Any]:
    """Serves the page until interrupted, and writes the labels; `--write` only writes them."""
    from jaxch5.data.source import remarks
    from jaxch5.results.answers import AnswerLog
    from jaxch5.results.cleaner import Cleaner, read_judged
    from jaxch5.results.corrections import check_listable

    if options.write and "port" in options._named:
        raise ConfigError("port: has no effect with --write, which opens no page; leave it out")
    console = options.console()
    folder = RunDir(expanded(options.run).absolute())
    judged = read_judged(folder.path / SUSPECTS)
    directory = _run_of(options.run)
    source, rows, notes = set_of(options, directory)
    check_listable(list(rows.values()))
    with locked(folder), AnswerLog(folder.path / ANSWERS) as log:
        if log.torn:
            notes.append(f"{log.path}: its last line was incomplete and is ignored")

        def finish() -> dict[str, Any]:
            return written(options, log, list(rows.values()), directory)

        if not options.write:
            items = {(row.image, row.label): item for item, row in rows.items()}
            looks = looks_of(options, directory, source)
            cleaner = Cleaner(folder.path.name, judged, source, items, log, finish, looks)
            if cleaner.stale:
                one = "suspect is no longer in the set, or has another label now, and is left out"
                many = one.replace("suspect is", "suspects are").replace("has", "have")
                many = many.replace("is left", "are left")
                out = () if directory == folder else ("--out", str(folder.path))
                again = shlex.join(["jaxch5", "suspects", str(directory.path), *out])
                notes.append(
                    f"{counted(cleaner.stale, one, many)}; to judge the current set, run {again}"
                )
        for note in [*remarks(source), *notes]:
            print_line(console, note)
        ended: BaseException | None = None
        if not options.write:
            with listening(options.port) as server:
                print_line(
                    console,
                    f"{counted(len(cleaner.keys), 'suspect')} of {counted(len(rows), 'picture')}: "
                    f"http://{HOST}:{server.getsockname()[1]}/ (Ctrl-C stops it)",
                )
                try:
                    serve(server, cleaner.respond)
                except (KeyboardInterrupt, Terminated) as error:
                    ended = error
        result = finish()
    for line in (*result["lines"], result["command"]):
        print_line(console, line)
    if ended:
        if options.json_output:
            print(to_json(result), flush=True)
        raise ended
    return result


def _run_of(path: Path) -> RunDir:
    """Returns the folder if it is a run, or else the run that its suspects.json names, if any.

    Raises:
        ConfigError: The run that suspects.json names is gone.
        DataError: suspects.json cannot be read.
    """
    from jaxch5.results.cleaner import read_judged

    folder = RunDir(expanded(path).absolute())
    if is_run(folder) or not (named := read_judged(folder.path / SUSPECTS).get("run")):
        return folder
    judged = RunDir(expanded(Path(named)).absolute())
    if not judged.config_file.is_file():
        out = shlex.quote(str(folder.path))
        raise ConfigError(
            f"{judged.path}: the run that {folder.path / SUSPECTS} names is gone; if it was moved, "
            f"judge it again with jaxch5 suspects RUN --out {out}, which keeps the answers"
        )
    return judged


def set_of(options: CleanOptions, directory: RunDir) -> tuple[Source, dict[int, Row], list[str]]:
    """Returns the set with the suspects, each item's row in labels.csv, and remarks on omissions.

    Raises:
        ConfigError: No pictures are named, the set's pictures are not separate files, or a setting
            other than the pictures' location differs from the run's setting.
        DataError: The pictures cannot be found, told apart or split.
        CheckpointError: The record of the run's pictures is damaged.
    """
    from jaxch5.config.building import load_source, split_of
    from jaxch5.data.pictures import find, pictures_of, read_pictures
    from jaxch5.data.verify import readable
    from jaxch5.results.corrections import Row

    config, notes = options.settings(), []
    if directory.config_file.is_file():
        recorded = open_run(directory.path)[1]
        for key in differing(config, recorded):
            if key not in MAY_MOVE:
                raise ConfigError(
                    f"{key}: a set is cleaned with the settings of {directory.config_file}; only "
                    "the pictures' location may be changed (--data.path and the like)"
                )
    elif config.data.path is None and config.data.archive is None:
        raise ConfigError(
            f"{directory.path} does not say which pictures were judged; name them with --data.path"
        )
    pictures = read_pictures(directory.pictures_file)
    source = load_source(config.data)
    if pictures is None and config.data.on_bad == "skip":
        source = readable(source)
    if source.file is None:
        raise ConfigError(
            f"{source.name}: its pictures are not separate files that a table could list; correct "
            "the labels where the set is made"
        )
    if pictures is None:
        train, valid = split_of(config.data, source)(source)
        parts = {int(item): False for item in train} | {int(item): True for item in valid}
        missing = 0
    else:
        places = find(pictures, pictures_of(source)).places
        there = np.flatnonzero(places >= 0)
        parts = {int(places[one]): bool(pictures.held_out[one]) for one in there}
        missing = len(pictures) - len(there)
    for count, what in (
        (missing, "of the run that could not be found"),
        (len(source) - len(parts), "that neither training nor validation used"),
    ):
        if count:
            notes.append(f"{LABELS} leaves out {counted(count, 'picture')} {what}")
    file = source.file
    rows = {
        item: Row(os.path.abspath(file(item)), source.classes[source.labels[item]], parts[item])
        for item in sorted(parts)
    }
    return source, rows, notes


def written(
    options: CleanOptions, log: AnswerLog, rows: list[Row], directory: RunDir
) -> dict[str, Any]:
    """Writes labels.csv and labels.toml, and returns counts, remarks and the next command.

    Raises:
        CheckpointError: A file cannot be written.
    """
    from jaxch5.results.answers import by_picture
    from jaxch5.results.corrections import corrected, remarks, summary, write_labels

    path = log.path.with_name(LABELS)
    drop = options.unsure == "drop"
    now = corrected(rows, by_picture(log.answers), drop)
    earlier = directory.path if directory.checkpoints.is_dir() else None
    settings = to_toml(settings_of(options.settings(), path))
    kept = write_labels(path, now, earlier, settings)
    lines = [summary(now, drop), *remarks(rows, now)]
    lines += [
        f"{file} did not match its record, so it may have been edited; it is replaced, and the "
        f"former file is kept as {edited}"
        for file, edited in kept.items()
    ]
    lines.append(f"{counted(len(now.rows), 'picture')} with corrected labels: {path}")
    return {
        "lines": lines,
        "command": shlex.join(("jaxch5", "train", "--config", str(path.with_suffix(".toml")))),
        "labels": str(path),
        "pictures": len(now.rows),
        "relabelled": now.relabelled.total(),
        "dropped": now.dropped.total(),
    }


def settings_of(config: Config, labels: Path) -> Config:
    """Returns the configuration, changed only so that training uses the corrected labels.

    Example:
        >>> config = Config.model_validate({"data": {"path": "photos", "pattern": "(.+)_"}})
        >>> changed = settings_of(config, Path("labels.csv"))
        >>> changed.data.path.name, changed.data.pattern
        ('labels.csv', None)
    """
    given = without(config.given(), [f"data.{name}" for name in OF_THE_SET])
    return Config.model_validate(deep_update(given, {"data": {"path": labels}}))


def looks_of(options: CleanOptions, directory: RunDir, source: Source) -> Looks | str:
    """Returns a function that draws where the network looks, or a text on why there is none."""
    if not directory.checkpoints.is_dir():
        return "these suspects do not belong to a run with a network"
    lock = Lock()

    @cache
    def loaded() -> Predictor:
        from jaxch5.results.predictor import load_learner
        from jaxch5.training.process import prepare_process

        prepare_process()
        predictor = load_learner(directory.path, options.architecture(), options.task())
        return predictor.reading(**source.reading._asdict())

    def looks(item: int, label: str) -> Image.Image:
        from jaxch5.results.attribution import attribution

        # Calls run one at a time, so that the network is loaded and compiled only once.
        with lock:
            return attribution(loaded(), source.read(item), label).overlay()

    return looks


def main() -> int:
    return run(clean, CleanOptions, "jaxch5 clean")


if __name__ == "__main__":
    sys.exit(main())
