"""`jaxch5 predict RUN PICTURE...`: classifies pictures, and prints a line for each."""

from __future__ import annotations

import glob
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field
from pydantic_settings import CliPositionalArg

from jaxch5.cli import FAILED, Options, run
from jaxch5.errors import CheckpointError, DataError
from jaxch5.util.files import DRAWN_BY, unused, write_file
from jaxch5.util.text import printable

if TYPE_CHECKING:
    from jaxch5.data.sources.listing import PassedOver
    from jaxch5.results.predictor import Prediction, Predictor

# Minimum side in pixels of a PNG that `--explain` writes.
SHOWN_SIDE = 256
# A picture's name, and then its path, its content, or the error that is reported for it.
Found = tuple[str, str | bytes | DataError]


class PredictOptions(Options):
    """Classify pictures: print a line for each, with path, class, probability and runner-up.

    If the classifier answers "none of these", the line has this answer before the classes, and JSON
    has null as `answer`. --model.task and --model.threshold, or these settings in the file of
    --config, replace the classifier's own task and threshold.

    With --explain, a line ends with the path of a PNG, NAME-explained.png, which shows what in the
    picture supports the most probable class. No file is replaced: if a name is taken, a number is
    added to it.

    The exit status is 1 if a picture could not be read; the other pictures are still predicted.
    Files that are passed over in a folder are counted on standard error.
    """

    run: CliPositionalArg[Path] = Field(description="run directory, or a learner's file")
    pictures: CliPositionalArg[list[str]] = Field(
        description="pictures, folders of them, patterns such as '*.jpg', or - to read standard "
        "input, which is a picture or has one path per line"
    )
    top: int = Field(
        2, ge=1, description="number of classes to list for each picture, most likely first"
    )
    explain: Path | None = Field(
        None,
        description="folder for a PNG of each picture, which shows what parts of it support its "
        "most probable class",
    )


def predict(options: PredictOptions) -> dict[str, Any]:
    """Classifies pictures, prints a line for each (not with `--json`), and returns the results."""
    from jaxch5.data.sources.listing import described
    from jaxch5.results.predictor import load_learner
    from jaxch5.training.process import prepare_process

    prepare_process()
    found, passed_over = pictures_of(options.pictures)
    predictor = load_learner(options.run, options.architecture(), options.task())
    predictor = predictor.reading(**options.reading())
    if options.explain:
        from jaxch5.results.attribution import check_has_map

        check_has_map(predictor)
    if predictor.about.range == "auto":
        text, words = range_of(found, predictor.about.max_pixels)
        predictor = predictor.reading(range=text)
        if words:
            print(f"jaxch5 predict: {words}", file=sys.stderr)
    results: list[dict[str, Any]] = []
    failed = False
    readable = (content for _, content in found if not isinstance(content, DataError))
    predictions = iter(predictor.predict_many(readable))
    for name, content in found:
        prediction = content if isinstance(content, DataError) else next(predictions)
        if isinstance(prediction, DataError):
            failed = True
            print(f"jaxch5 predict: {printable(str(prediction))}", file=sys.stderr)
            results.append({"path": name, "error": str(prediction)})
            continue
        likely = most_likely(prediction, predictor.classes, options.top)
        none = [prediction.label] * (prediction.index == len(predictor.classes))
        answer = None if none else prediction.label
        results.append({"path": name, "answer": answer, "classes": dict(likely)})
        drawn: list[str] = []
        if options.explain:
            drawn = [explain(predictor, content, options.explain, name)]
            results[-1]["explanation"] = drawn[0]
        if not options.json_output:
            cells = [name, *none, *(f"{label} {share:.4f}" for label, share in likely), *drawn]
            print("\t".join(map(printable, cells)))
    for folder, reasons in passed_over.items():
        line = printable(f"{folder}: passed over: {described(reasons)}")
        print(f"jaxch5 predict: {line}", file=sys.stderr)
    named = {
        folder: {reason.text(): paths for reason, paths in reasons.items()}
        for folder, reasons in passed_over.items()
    }
    return {"predictions": results, "passed_over": named, FAILED: failed}


def explain(predictor: Predictor, picture: Any, folder: Path, name: str) -> str:
    """Draws which parts of a picture support its most probable class; returns the PNG's path.

    Raises:
        CheckpointError: The folder or the PNG cannot be written.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from jaxch5.results.attribution import attribution

    found = attribution(predictor, picture)
    if not found.map.any():
        words = f"{name}: nothing in the picture supports {found.label}: its map is empty"
        print(printable(f"jaxch5 predict: {words}"), file=sys.stderr)
    drawn, written = found.overlay(), io.BytesIO()
    times = -(-SHOWN_SIDE // min(drawn.size))
    sides = times * drawn.width, times * drawn.height
    drawn = drawn.resize(sides, Image.Resampling.NEAREST)
    # So that it is not taken for a picture of a set.
    (mark := PngInfo()).add_text("Software", DRAWN_BY)
    drawn.save(written, "png", optimize=True, pnginfo=mark)
    # A file with this name may be the user's, or belong to a picture of the same name in another
    # folder.
    path = unused(folder / ("picture" if name == "-" else Path(name).stem), "-explained.png")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written to: {error.strerror}") from None
    write_file(path, written.getvalue())
    return str(path)


def range_of(found: Sequence[Found], max_pixels: int) -> tuple[str, str]:
    """Guesses the range of values in pictures that have more than 8 bits; see `guess_range`."""
    from jaxch5.data.depth import SUFFIXES
    from jaxch5.data.scale import guess_range

    files = [
        content
        for name, content in found
        if isinstance(content, bytes) or (content == name and name.lower().endswith(SUFFIXES))
    ]

    def read(number: int) -> bytes:
        content = files[number]
        with suppress(OSError):
            return content if isinstance(content, bytes) else Path(str(content)).read_bytes()
        return b""

    return guess_range(len(files), read, max_pixels=max_pixels)


def most_likely(
    prediction: Prediction, classes: tuple[str, ...], top: int
) -> list[tuple[str, float]]:
    """Returns the `top` classes with their probabilities, most likely first."""
    order = np.argsort(-prediction.probabilities, kind="stable")[:top]
    return [(classes[number], float(prediction.probabilities[number])) for number in order]


def pictures_of(names: Iterable[str]) -> tuple[list[Found], dict[str, PassedOver]]:
    """Finds the pictures that names stand for, and the files that are passed over in each folder.

    Files passed over are grouped by reason. For a folder or pattern without pictures, there is an
    error in place of the pictures.
    """
    from jaxch5.data.sources.listing import list_folder

    found: list[Found] = []
    passed_over: dict[str, PassedOver] = {}
    for given in names:
        before = len(found)
        for name in _matched(given):
            files = [name]
            try:
                if name == "-":
                    found += _of_standard_input(sys.stdin.buffer.read())
                    continue
                if Path(name).is_dir():
                    listed = list_folder(Path(name))
                    if listed.passed_over:
                        passed_over[name] = listed.passed_over
                    files = [os.path.join(name, file) for file in listed.pictures]
                elif not os.path.lexists(name) and glob.has_magic(name):
                    raise DataError(f"{name}: no file matches")
                found += [(file, file) for file in files]
            except OSError as error:
                found.append((name, DataError(f"{name}: cannot be read: {error.strerror}")))
            except DataError as error:
                found.append((name, error))
        # A pattern may match folders without pictures, but not only such folders.
        if len(found) == before:
            found.append((given, DataError(f"{given}: contains no readable pictures")))
    return found, passed_over


def _matched(name: str) -> list[str]:
    """Returns the files and folders that a pattern matches, in order; another name matches itself.

    A folder is left out if the pattern also matches what is in it, as `**` does.
    """
    if os.path.lexists(name) or not glob.has_magic(name):
        return [name]
    matches = sorted(glob.glob(name, recursive=True))
    entered = {str(folder) for match in matches for folder in Path(match).parents}
    return [match for match in matches if str(Path(match)) not in entered] or [name]


def _of_standard_input(content: bytes) -> Iterator[Found]:
    from jaxch5.data.formats import read_header

    if not content.strip():
        raise DataError("-: standard input is empty")
    try:
        read_header(content)
        is_picture = True
    except Exception:
        # A list of paths has no null byte; other content goes to the decoder, which reports errors.
        is_picture = b"\0" in content
    if is_picture:
        yield "-", content
    else:
        # Not `splitlines`: other characters that it takes for line ends can be part of a name.
        lines = (line.removesuffix("\r") for line in os.fsdecode(content).split("\n"))
        yield from ((line, line) for line in lines if line)


def main() -> int:
    return run(predict, PredictOptions, "jaxch5 predict")


if __name__ == "__main__":
    sys.exit(main())
