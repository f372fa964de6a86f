"""This version reads what earlier versions wrote; `tests/written` has files of each kind.

Runs, learners' files, exports and packed sets were written by f7a6c46 (`tests/written/write.py`),
configurations by several versions. One comparison of bits depends on the processor; it is skipped
if this processor computes other bits than the one that wrote the run.
"""

import io
import json
import lzma
import shutil
import sys
import tarfile
import tomllib
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load, load_file

import jaxch5 as jx
from jaxch5.cli import run as run_command
from jaxch5.config.settings import from_toml
from jaxch5.evaluate import EvaluateOptions, evaluate
from jaxch5.optim.optimizer import with_hyperparams
from jaxch5.predict import PredictOptions, predict
from jaxch5.run.directory import open_run
from jaxch5.train import TrainOptions, train
from jaxch5.training.compiler import compiler_options
from jaxch5.training.loop import epoch_key

WRITTEN = Path(__file__).parent / "written"
sys.path.append(str(WRITTEN))
from own_module import STEPS_PER_EPOCH, STOPPED, Own, own_learner, train_own  # noqa: E402

EXPECTED = json.loads((WRITTEN / "expected.json").read_text())
HALF = pytest.param("own_fp16", marks=pytest.mark.float16)
OWN = ("own_fp32", HALF)
PICTURE = np.uint8(np.arange(50 * 40 * 3).reshape(50, 40, 3) * 7 % 251)
# Configurations contain this path instead of the folder in which they were written.
HOME = "/home/somebody"


@pytest.fixture
def written(tmp_path):
    """A function that unpacks an archive by name and returns its folder.

    The pictures are already unpacked where the configurations of runs then expect them.
    """

    def unpack(name):
        with lzma.open(WRITTEN / f"{name}.tar.xz") as file, tarfile.open(fileobj=file) as archive:
            archive.extractall(tmp_path, filter="data")
        if (config := tmp_path / name / "config.toml").exists():
            config.write_text(config.read_text().replace(HOME, str(tmp_path)))
        return tmp_path / name

    shutil.copy(WRITTEN / "photographs.zip", tmp_path)
    unpack("sets")
    return unpack


def command(capsys, function, options, *argv):
    status = run_command(function, options, "test", [*map(str, argv), "--json"])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return json.loads(captured.out)


def flat(values):
    """Returns the values of nested settings by their dotted names."""
    found = {}
    for key, value in values.items():
        below = flat(value) if isinstance(value, dict) else {"": value}
        found |= {f"{key}.{name}".removesuffix("."): one for name, one in below.items()}
    return found


def quiet(learn):
    learn.console = Console(file=io.StringIO())
    return learn


def resumed(name, path):
    """Returns a learner like that of the stopped run at `path`, restored from the run."""
    learn = quiet(own_learner(name, seed=3))
    run, _ = open_run(path)
    assert learn.restore(run)
    learn.run = run
    return learn


def bits(tree):
    """Returns a checksum of each leaf of a tree, in order."""
    return [
        zlib.crc32(np.ascontiguousarray(leaf)) for leaf in jax.tree.leaves(jax.device_get(tree))
    ]


@pytest.mark.parametrize("name", OWN)
def test_a_stopped_run_is_restored_to_the_bit(name, written):
    """The restored state has exactly the arrays of the checkpoint, with the same names and bits."""
    path = written(name)
    learn = resumed(name, path)
    folder = path / "checkpoints" / str(STOPPED)
    variables, rest = (
        load((folder / item / "arrays.safetensors").read_bytes()) for item in ("variables", "rest")
    )

    def named(tree):
        leaves, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(tree))
        key = jax.tree_util.keystr
        return {key(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}

    others = {"average": None} if learn.state.average else {"params": None, "batch_stats": None}
    for found, stored in (
        (learn.state.variables, variables),
        (learn.state.replace(**others), rest),
    ):
        found = named(found)
        assert found.keys() == stored.keys()
        for key, array in stored.items():
            assert (found[key].dtype, found[key].tobytes()) == (array.dtype, array.tobytes()), key
    assert int(learn.state.step) == STOPPED
    lines = (path / "metrics.jsonl").read_text().splitlines()
    assert learn.records == list(map(json.loads, lines))
    assert (learn.state.scale is not None) == (name == "own_fp16")


@pytest.mark.parametrize("name", OWN)
def test_a_stopped_run_ends_as_its_steps_do_one_by_one(name, written):
    """A resumed run trains just as the pure step function does when it is called for each batch.

    The function starts from the restored state and gets each step's rate, momentum and random key.
    """
    path = written(name)
    stepwise = resumed(name, path)
    learn = resumed(name, path)
    train_own(learn, name)
    state, data = stepwise.state, stepwise.data
    # The step function of the phase in which the run was stopped; it ends with the second epoch.
    step, _ = stepwise._frozen.steps(data, stepwise.normalization)
    step = jax.jit(step, compiler_options=compiler_options())
    losses, lrs, moms = learn.recorder.losses, learn.recorder.lrs, learn.recorder.moms
    stop = 2 * STEPS_PER_EPOCH
    for number, batch in enumerate(data.train.steps(STOPPED, stop)):
        rates = np.array(lrs[number], np.float32)
        momentum = np.float32(moms[number])
        opt_state = with_hyperparams(state.opt_state, lr=rates, momentum=momentum)
        key = epoch_key(stepwise._key, (STOPPED + number) // STEPS_PER_EPOCH)
        state, metrics = step(state.replace(opt_state=opt_state), batch, key)
        assert float(metrics["loss"]) == losses[number]
    if len(losses) == stop - STOPPED:
        assert bits(learn.state) == bits(state)


@pytest.mark.parametrize("name", OWN)
def test_a_stopped_run_ends_with_the_bits_of_one_that_was_not(name, written):
    """A resumed run ends with the bits of an uninterrupted one, here and in the earlier version.

    The test is skipped if this processor does not compute the bits of the one that wrote the run.
    """
    path = written(name)
    ended = json.loads((path / "ended.json").read_text())
    losses = [float.fromhex(loss) for loss in ended["losses"]]
    whole = quiet(own_learner(name))
    train_own(whole, name)
    assert whole.recorder.losses == pytest.approx(losses, rel=1e-3)
    if whole.recorder.losses[:STOPPED] != losses[:STOPPED]:
        pytest.skip("this processor adds in another order than the one that wrote the run")
    learn = resumed(name, path)
    train_own(learn, name)
    assert learn.recorder.losses == losses[STOPPED:]
    assert bits(learn.state) == bits(whole.state) == list(ended["state"].values())
    for now, then in zip(learn.records, ended["records"], strict=True):
        for key in then.keys() - {"seconds", "images_per_second"}:
            assert now[key] == then[key]


@pytest.mark.parametrize(
    ("name", "scored"), [("digits", 359), ("folder", 4), ("table", 8), ("every", 6)]
)
def test_a_run_is_evaluated(name, scored, written, tmp_path, capsys):
    """A run is scored on its own validation pictures, and predicts what its version predicted."""
    path = written(name)
    document = command(capsys, evaluate, EvaluateOptions, path, "--out", tmp_path / "out")
    assert document["scored"]["part"] == "validated"
    assert document["pictures"] == scored
    answers = jx.load_learner(path).predict(PICTURE).probabilities
    tolerance = 2e-2 if name in ("table", "every") else 1e-4
    np.testing.assert_allclose(answers, EXPECTED[name], atol=tolerance)


def test_a_run_whose_pictures_moved_is_evaluated(written, tmp_path, capsys):
    path = written("folder")
    (tmp_path / "sets" / "photographs").rename(tmp_path / "elsewhere")
    words = "--data.path", tmp_path / "elsewhere", "--out", tmp_path / "out"
    document = command(capsys, evaluate, EvaluateOptions, path, *words)
    assert document["scored"]["part"] == "validated"
    assert document["pictures"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "folder", "table", "every"])
def test_a_run_is_resumed_by_the_command(name, written, capsys):
    """`jaxch5 train --resume` trains a stopped run to its end, whatever the epoch and phase.

    The run's record of its pictures stays the same.
    """
    path = written(name)
    before = (path / "pictures.jsonl.gz").read_bytes()
    document = command(capsys, train, TrainOptions, "--resume", path)
    _, config = open_run(path)
    frozen = config.fit.freeze_epochs if config.fit.schedule == "fine_tune" else 0
    lines = (path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == config.fit.epochs + frozen
    assert document["run"] == str(path)
    assert (path / "pictures.jsonl.gz").read_bytes() == before


@pytest.mark.slow
def test_another_run_begins_from_its_weights(written, tmp_path, capsys):
    path = written("folder")
    words = ("--data.path", tmp_path / "sets" / "photographs", "--model.weights", path)
    words += ("--data.presize", 36, "--data.size", 32, "--data.batch-size", 8)
    words += ("--data.on-bad", "skip", "--fit.epochs", 1, "--workdir", tmp_path / "second")
    assert run_command(train, TrainOptions, "test", list(map(str, words))) == 0
    assert "their head is kept: the same 3 classes" in capsys.readouterr().out


def test_a_run_and_a_learners_file_predict_by_the_command(written, tmp_path, capsys):
    """The command answers for each picture of a folder what the loaded classifier answers."""
    folder = tmp_path / "sets" / "photographs" / "rose"
    exports = written("exports")
    for path in (exports / "resnet18-learner.safetensors", written("folder")):
        document = command(capsys, predict, PredictOptions, path, folder, "--top", 3)
        names = [one["path"] for one in document["predictions"]]
        assert len(names) == 8
        assert names == sorted(map(str, folder.iterdir()))
        learner = jx.load_learner(path)
        for one, found in zip(document["predictions"], learner.predict_many(names), strict=True):
            expected = dict(zip(learner.classes, found.probabilities.tolist(), strict=True))
            assert one["classes"] == pytest.approx(expected, abs=1e-6)
            assert one["answer"] == found.label


def test_learners_files_answer_as_they_did(written):
    exports = written("exports")
    for name, model in (("own", Own()), ("resnet18-learner", None)):
        predictor = jx.load_learner(exports / f"{name}.safetensors", model=model)
        answers = predictor.predict(PICTURE).probabilities
        np.testing.assert_allclose(answers, EXPECTED[f"{name}.safetensors"], atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18-safetensors", "resnet18-fastai", "linear"])
def test_exports_are_weights_to_begin_from(name, written):
    """Training can begin from exported weights; ResNet-18 exports equal their learner's file."""
    exports = written("exports")
    variables = jx.load_weights(exports / f"{name}.safetensors", "resnet18")
    if name != "linear":
        same = jx.load_weights(exports / "resnet18-learner.safetensors", "resnet18")
        assert bits(variables) == bits(same)
    assert load_file(exports / f"{name}.safetensors")


def test_an_exported_program_answers_as_its_learner_does(written):
    exports = written("exports")
    program = jax.export.deserialize((exports / "own.stablehlo").read_bytes())
    about = json.loads(program.fun_name)
    predictor = jx.load_learner(exports / "own.safetensors", model=Own())
    assert about["classes"] == list(predictor.classes)
    square = PICTURE[:10, :10]
    (now,) = predictor.predict_many([square])
    np.testing.assert_allclose(program.call(square[None])[0], now.probabilities, atol=1e-4)


@pytest.mark.parametrize("name", list(EXPECTED["packs"]))
def test_a_packed_set_is_read(name, written):
    packs = written("packs")
    expected = EXPECTED["packs"][name]
    source = jx.from_packed(packs / name)
    assert list(source.classes) == expected["classes"]
    assert source.labels.tolist() == expected["labels"]
    assert list(source.references) == expected["references"]
    assert {key: list(value) for key, value in source.columns.items()} == expected["columns"]
    assert [zlib.crc32(source.read(item)) for item in range(len(source))] == expected["read"]
    assert (source.reading.range, source.presized) == (expected["range"], expected["presized"])
    split = jx.folder_split() if name == "split" else jx.random_split()
    data = jx.DataBlock(source, split, presize=16, size=16).load(batch_size=4)
    (batch,) = data.train.steps(0, 1)
    assert batch.open().image.shape[0] == 4


@pytest.mark.parametrize("name", list(EXPECTED["configurations"]))
def test_the_configuration_of_a_run_means_what_it_meant(name, written):
    _, config = open_run(written(name))
    now = flat(config.model_dump(mode="json"))
    for key, then in flat(EXPECTED["configurations"][name]).items():
        if isinstance(then, str):
            then = then.partition(HOME)[2] or then
            assert str(now[key]).endswith(then), key
        else:
            assert now[key] == then, key


@pytest.mark.parametrize(
    "file", sorted((WRITTEN / "configurations").glob("*.toml")), ids=lambda file: file.stem
)
def test_configurations_of_all_versions_are_read(file):
    """Every value in a configuration file is used as it is written there."""
    config = flat(from_toml(file, recorded=True).model_dump(mode="json"))
    for key, value in flat(tomllib.loads(file.read_text())).items():
        assert config[key] == value, key
