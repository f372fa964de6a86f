"""Loading an untrusted run or learner executes nothing, fetches nothing and writes nothing."""

import hashlib
import json
import pickle
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from jaxch5.errors import CheckpointError, Jaxch5Error, WeightsError
from jaxch5.results.artifacts import as_learner
from jaxch5.results.predictor import load_learner


@pytest.fixture(scope="module")
def learner_file(trained, tmp_path_factory):
    file = tmp_path_factory.mktemp("learner") / "learner.safetensors"
    file.write_bytes(as_learner(load_learner(trained[0])))
    return file


@pytest.fixture
def changed(learner_file, tmp_path):
    """A function that returns a copy of the learner's file with other metadata or tensors."""

    def change(tensors=None, **metadata):
        with safe_open(learner_file, framework="numpy") as file:
            kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            said = file.metadata()
        file = tmp_path / "learner.safetensors"
        save_file(kept | (tensors or {}), file, said | metadata)
        return file

    return change


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a run that a test may tamper with."""
    return Path(shutil.copytree(trained[0], tmp_path / "run"))


def state_of(folder):
    return {str(file): (file.stat().st_mtime_ns, file.stat().st_size) for file in folder.rglob("*")}


ABSURD = {
    "presize": ({"presize": "1000000000"}, "presize = 1000000000"),
    "presize no number": ({"presize": "__import__('os')"}, "presize"),
    "size above presize": ({"size": "64"}, "presize = 36 is below"),
    "size": ({"size": "-1"}, "size = -1"),
    "arch": ({"arch": "resnet1000000"}, "arch"),
    "arch with a path": ({"arch": "../../resnet18"}, "arch"),
    "head": ({"head": "os.system"}, "head"),
    "precision": ({"precision": "fp1"}, "precision"),
    "a million classes": (
        {"classes": json.dumps([str(n) for n in range(10**6)])},
        "1000000 classes",
    ),
    "classes no list": ({"classes": "7"}, "classes"),
    "classes deeply nested": ({"classes": "[" * 100_000}, "classes"),
    "mean not a number": ({"mean": "[NaN, 0, 0]"}, "mean"),
    "std infinite": ({"std": "[1, 1, Infinity]"}, "std"),
    "std zero": ({"std": "[1, 1, 0]"}, "std"),
}


@pytest.mark.parametrize("kind", ABSURD)
def test_absurd_metadata_is_one_line(kind, changed):
    """Implausible metadata is refused in one line within seconds, whatever size it states."""
    metadata, named = ABSURD[kind]
    began = time.perf_counter()
    with pytest.raises(WeightsError) as caught:
        load_learner(changed(**metadata))
    assert time.perf_counter() - began < 10
    assert "learner.safetensors: " in str(caught.value)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "tensors",
    [
        {"fc.bias": np.zeros(3, np.float32)},
        {"fc.bias": np.zeros((), np.float32)},
        {"conv1.weight": np.zeros((64, 3, 9, 9), np.float32)},
        {"stranger": np.zeros(1, np.float32)},
    ],
)
def test_tensors_that_do_not_fit_are_one_line(tensors, changed):
    with pytest.raises(WeightsError) as caught:
        load_learner(changed(tensors))
    assert "\n" not in str(caught.value)


def test_loading_a_run_fetches_nothing_and_writes_nothing(run, learner_file, monkeypatch):
    """Loading ignores the address and the file of weights that a run's configuration names.

    It connects to nothing, unpickles nothing and changes no file.
    """
    weights, before = run.parent / "weights.pth", '\nweights = "none"'
    weights.write_bytes(pickle.dumps(print))
    file = run / "config.toml"
    text = re.sub('path = ".*"', 'archive = "http://127.0.0.1:9/evil.zip"', file.read_text())
    assert before in text
    file.write_text(text.replace(before, f'\nweights = "{weights}"'))
    states = state_of(run.parent)
    done = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, to: done.append(to))
    for module, name in ((pickle, "load"), (pickle, "loads"), (np, "load")):
        monkeypatch.setattr(module, name, lambda *_, **__: done.append("a pickle"))
    opened = []
    sys.addaudithook(
        lambda event, details: opened.append(str(details[0])) if event == "open" else 0
    )
    for path in (run, learner_file):
        assert load_learner(path).classes == ("blue", "red")
    assert not done
    assert opened
    assert str(weights) not in opened
    assert state_of(run.parent) == states


def test_a_run_holds_nothing_that_is_executed(run):
    """A run's files contain text and numbers, but no pickles and no programs."""
    for file in run.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert file.suffix not in (".py", ".pkl", ".pickle", ".so", ".pth", ".npy")
            assert not content.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"))


def test_what_is_hidden_in_a_run_is_not_run(run, tmp_path):
    """Code that is hidden in a run, wherever a careless reader would execute it, is not executed.

    The run is loaded in its own process.
    """
    sign = tmp_path / "ran"
    code = f"open({str(sign)!r}, 'w')"

    class Code:
        def __reduce__(self):
            return exec, (code,)

    for folder in [run, *filter(Path.is_dir, (run / "checkpoints").rglob("*"))]:
        for name in ("weights.pkl", "_METADATA.pkl", "checkpoint.npy"):
            (folder / name).write_bytes(pickle.dumps(Code()))
        for name in ("jaxch5.py", "sitecustomize.py", "numpy.py", "__init__.py"):
            (folder / name).write_text(code)
    described = list((run / "checkpoints").rglob("_CHECKPOINT_METADATA"))
    assert described
    for file in described:
        said = json.loads(file.read_text())
        for item in said["item_handlers"]:
            said["item_handlers"][item] = f"__import__('builtins').exec({code!r})"
        said["custom_metadata"] = {"__reduce__": ["builtins.exec", [code]]}
        file.write_text(json.dumps(said))
    program = (
        "import sys\nfrom jaxch5.results.predictor import load_learner\n"
        "from jaxch5.errors import Jaxch5Error\n"
        "try:\n    load_learner(sys.argv[1])\nexcept Jaxch5Error as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, run], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") <= 1
    assert not sign.exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('arch = "resnet18"', 'arch = "resnet999"'),
        ("presize = 36", "presize = 1000000000"),
        ("size = 32", "size = nan"),
        ('precision = "fp32"', 'precision = "fp1"'),
        ("seed = 0", "seed = 0\nevil = 1"),
        ("seed = 0", "seed = " + "[" * 5000),
    ],
)
def test_an_absurd_configuration_is_one_line(run, old, new):
    file = run / "config.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(Jaxch5Error) as caught:
        load_learner(run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ["one"]},
        {"classes": [str(number) for number in range(100_000)]},
        {"mean": ["a", "b", "c"]},
        {"mean": [float("nan")] * 3},
        {"std": [0, 0, 0]},
        {"classes": None},
        {"classes": [1, 2]},
        {"arch": {"a": 1}},
        {"mean": None},
    ],
)
def test_what_a_checkpoint_says_of_itself_is_checked(run, change):
    """Implausible metadata of a checkpoint is refused in one line, even with a valid checksum."""
    for file in (run / "checkpoints").glob("*/about/metadata"):
        said = json.loads(file.read_text()) | change
        del said["sha256"]
        checksum = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
        file.write_text(json.dumps(said | {"sha256": checksum}))
    with pytest.raises((WeightsError, CheckpointError)) as caught:
        load_learner(run)
    assert "\n" not in str(caught.value)
