"""Writes the files of this folder: `python tests/written/write.py`, with the code of f7a6c46.

The files are like those of a user of that version, so no later version may write them again. The
arrays of a ResNet-18 are replaced by repetitive ones with the same names, shapes and types, so that
44 MB become a few kilobytes. Folders are packed as .tar.xz.
"""

import io
import json
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from contextlib import redirect_stdout, suppress
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from safetensors.numpy import load

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parent)]

# The tests can compare bits only if XLA_FLAGS is as `tests/conftest.py` sets it.
from own_module import STOPPED, own_learner, train_own  # noqa: E402

from jaxch5.config import Config  # noqa: E402
from jaxch5.predictor import Predictor, load_learner  # noqa: E402
from jaxch5.session import Session  # noqa: E402
from jaxch5.training.arrays import _write, to_arrays  # noqa: E402
from jaxch5.training.rundir import create_run  # noqa: E402

PERIOD = 251
# Replaces, in configurations, the folder in which they were written.
HOME = "/home/somebody"
RNG = np.random.default_rng(0)
PATTERN = RNG.normal(size=PERIOD).astype(np.float16).astype(np.float32)


def repeating(arrays):
    """Returns arrays of the same shapes that compress well; a network's outputs stay finite."""

    def one(name, array):
        if array.ndim == 0:
            return array
        last = name.rpartition("/")[2]
        if last == "kernel" and "opt_state" not in name:
            # The power of two that is nearest to the standard deviation of He's initialization.
            scale = 2.0 ** round(np.log2((2 / np.prod(array.shape[:-1])) ** 0.5))
            return np.resize(PATTERN * np.float32(scale), array.shape).astype(array.dtype)
        fill = 1 if last in ("scale", "var") and "opt_state" not in name else 0
        return np.full(array.shape, fill, array.dtype)

    return {name: one(name, array) for name, array in arrays.items()}


def thinned(run, keep=-1):
    """Removes a run's report and all checkpoints but one, whose arrays become repetitive."""
    steps = sorted((run / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    for step in steps:
        if step is not steps[keep]:
            shutil.rmtree(step)
    for file in steps[keep].rglob("arrays.safetensors"):
        _write(file.parent, repeating(load(file.read_bytes())))
    (run / "report.html").unlink(missing_ok=True)
    return run


def packed(folder, work):
    """Packs a folder as NAME.tar.xz, without data on where and by whom it was made."""
    for name in ("config.toml", "commit_success.txt", "environment.jsonl"):
        for file in folder.rglob(name):
            said = file.read_text().replace(str(work), HOME).replace(platform.platform(), "Linux")
            file.write_text(said)

    def anonymous(member):
        member.uid = member.gid = member.mtime = 0
        member.uname = member.gname = ""
        return member

    with tarfile.open(HERE / f"{folder.name}.tar.xz", "w:xz", preset=9) as archive:
        archive.add(folder, folder.name, filter=anonymous)


def train(*words):
    command = [sys.executable, "-m", "jaxch5.train", *map(str, words)]
    subprocess.run(command, check=True)


def photographs(root, classes=("daisy", "rose", "tulip"), count=8):
    """Writes a folder of pictures of several sizes, one damaged; colours tell classes apart."""
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for item in range(count):
            color = np.roll((200, 90, 40), number) + 5 * item
            size = 40 + 3 * item, 60 - 2 * item
            pixels = RNG.normal(color, 12, (4, 4, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).resize(size).save(root / name / f"{item}.jpg", quality=70)
    (root / classes[0] / "damaged.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut short")


def table(root):
    """Writes a CSV file and its pictures, which use 12 of 16 bits; a column splits the pictures."""
    rows = ["image,label,is_valid"]
    (root / "deep").mkdir(parents=True)
    for item in range(16):
        values = np.linspace(0, 4095, 30 * 32).reshape(30, 32) * (item % 2) + 40 * item
        picture = Image.fromarray(values.clip(0, 4095).astype(np.uint16))
        picture.save(root / "deep" / f"{item}.png")
        rows.append(f"deep/{item}.png,{('dark', 'bright')[item % 2]},{item % 4 > 1}")
    (root / "table.csv").write_text("\n".join(rows) + "\n")


def write_own(run, work):
    """Packs a run of `own_module` that is stopped in its second epoch.

    The file `ended.json` tells how the same run ends if it is not stopped. The learner that was not
    stopped is returned.
    """
    learn = own_learner(run)
    learn.console = Console(file=io.StringIO())
    train_own(learn, run)
    ended = {
        "losses": [float(loss).hex() for loss in learn.recorder.losses],
        "records": learn.records,
        "state": {name: zlib.crc32(array) for name, array in to_arrays(learn.state).items()},
    }
    stopped = own_learner(run)
    stopped.console = learn.console
    stopped.run = create_run(Config(), work / run)
    watch = Session.watch

    def watch_and_stop(session, event):
        watch(session, event)
        if getattr(event, "number", 0) == STOPPED:
            raise KeyboardInterrupt

    Session.watch = watch_and_stop
    with suppress(KeyboardInterrupt):
        train_own(stopped, run)
    Session.watch = watch
    folder = stopped.run.path
    assert (folder / "checkpoints" / str(STOPPED)).is_dir()
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1
    (folder / "report.html").unlink()
    (folder / "ended.json").write_text(json.dumps(ended))
    packed(folder, work)
    return learn


def answers(predictor, picture):
    return [float(share) for share in predictor.predict(picture).probabilities]


def main():
    picture = np.uint8(np.arange(50 * 40 * 3).reshape(50, 40, 3) * 7 % 251)
    expected = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        learn = {name: write_own(name, work) for name in ("own_fp32", "own_fp16")}["own_fp32"]
        exports = work / "exports"
        exports.mkdir()
        learn.save(exports / "own.safetensors")
        learn.export(exports / "own.stablehlo", "stablehlo")
        expected["own.safetensors"] = answers(learn.predictor(), picture)

        sets = work / "sets"
        photographs(sets / "photographs")
        table(sets)
        shutil.make_archive(work / "photographs", "zip", sets / "photographs")
        shutil.copytree(sets / "photographs", sets / "parts" / "train")
        shutil.copytree(sets / "photographs", sets / "parts" / "valid")
        small = "--data.presize", 36, "--data.size", 32, "--data.batch-size", 8
        train("--workdir", work / "digits", "--fit.epochs", 1, "--checkpoint.every-steps", 15)
        thinned(work / "digits", keep=0)
        train(
            *("--workdir", work / "folder", "--data.path", sets / "photographs", *small),
            *("--data.on-bad", "skip", "--model.weights", "none", "--fit.epochs", 2),
            *("--fit.keep-best", "--fit.optimizer", "sgd"),
        )
        thinned(work / "folder")
        predictor = load_learner(work / "folder")
        for form in ("learner", "safetensors", "fastai"):
            export(predictor, exports / f"resnet18-{form}.safetensors", form)
        linear = load_learner(work / "digits")
        export(linear, exports / "linear.safetensors", "safetensors")
        expected["resnet18-learner.safetensors"] = answers(predictor, picture)
        expected["folder"] = answers(predictor, picture)
        expected["digits"] = answers(linear, picture)

        train(
            *("--workdir", work / "table", "--data.path", sets / "table.csv", *small),
            *("--model.weights", exports / "resnet18-safetensors.safetensors"),
            *("--fit.freeze-epochs", 1, "--fit.epochs", 1, "--no-model.train-bn"),
            *("--model.precision", "bf16", "--model.groups", "stages"),
        )
        # The checkpoint that is kept is of the first phase, in which the body is frozen.
        thinned(work / "table", keep=0)
        train(
            *("--workdir", work / "every", "--data.path", work / "photographs.zip"),
            *("--data.presize", 40, "--data.size", 24, "--data.batch-size", 6),
            *("--data.valid-fraction", 0.3, "--data.stratify", "--data.on-bad", "skip"),
            *("--data.split", "random", "--data.split-seed", 7, "--data.range", 255),
            *("--data.max-pixels", 1_000_000, "--data.cache", "memory"),
            *("--augment.flip-vert", "--augment.max-rotate", 5),
            *("--augment.min-zoom", 0.9, "--augment.max-zoom", 1.2, "--augment.p-affine", 0.5),
            *("--augment.max-lighting", 0.3, "--augment.max-warp", 0.05),
            *("--augment.p-lighting", 0.5, "--augment.min-scale", 0.6),
            *("--augment.max-saturation", 0.1, "--augment.max-hue", 0.1, "--augment.p-gray", 0.1),
            *("--augment.mix", "cutmix", "--augment.mix-alpha", 0.8),
            *("--model.weights", "none", "--model.mean", "0.5,0.5,0.5"),
            *("--model.std", "0.2,0.2,0.2", "--model.head", "linear"),
            *("--model.precision", "bf16", "--model.remat"),
            *("--fit.epochs", 2, "--fit.schedule", "sgdr", "--fit.cycle-epochs", 1),
            *("--fit.lr", 1e-3, "--fit.wd", 0.02, "--fit.moms", "0.9,0.9,0.9"),
            *("--fit.loss", "focal", "--fit.gamma", 1.5, "--fit.optimizer", "lamb"),
            *("--fit.clip", 2, "--fit.accumulate", 2, "--fit.average", 0.9, "--fit.devices", 1),
            *("--fit.keep-best", "--checkpoint.every-steps", 3),
            *("--checkpoint.every-minutes", 9, "--seed", 11, "--deterministic"),
            *("--log", "tensorboard"),
        )
        thinned(work / "every")
        for name in ("table", "every"):
            expected[name] = answers(load_learner(work / name), picture)

        packs = work / "packs"
        for name, words in {
            "split": [sets / "parts", "--data.on-bad", "skip", "--shard-size", 20],
            "whole": [sets / "photographs", "--data.on-bad", "skip", "--quality", 80],
            "deep": [sets / "table.csv"],
        }.items():
            command = [sys.executable, "-m", "jaxch5.pack", *words, packs / name]
            command += ["--data.presize", 16]
            subprocess.run(list(map(str, command)), check=True)
        expected["packs"] = {path.name: contents(path) for path in sorted(packs.iterdir())}

        for run in ("digits", "folder", "table", "every"):
            packed(work / run, work)
        for other in (exports, packs, sets):
            packed(other, work)
        shutil.copy(work / "photographs.zip", HERE)
        expected["configurations"] = {
            run: config_of(work / run) for run in ("digits", "folder", "table", "every")
        }
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def export(predictor: Predictor, path, form):
    from jaxch5.artifacts import write_artifact

    write_artifact(predictor, path, form)


def contents(path):
    import jaxch5 as jx

    source = jx.from_packed(path)
    return {
        "classes": list(source.classes),
        "labels": source.labels.tolist(),
        "references": list(source.references),
        "columns": {name: list(values) for name, values in source.columns.items()},
        "read": [zlib.crc32(source.read(item)) for item in range(len(source))],
        "range": source.reading.range,
        "presized": source.presized,
    }


def config_of(run):
    from jaxch5.training.rundir import open_run

    return open_run(run)[1].model_dump(mode="json")


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):
        main()
