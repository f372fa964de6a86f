"""`jaxch5 pack` writes a packed set, on which training and the other commands work."""

import io
import json
import shutil

import flax.linen as nn
import numpy as np
import pytest
from rich.console import Console

from jaxch5.cli import parse, run
from jaxch5.config.building import load_data
from jaxch5.config.settings import Config, from_toml
from jaxch5.errors import ConfigError
from jaxch5.learner import vision_learner
from jaxch5.pack import PackOptions, pack
from jaxch5.show import ShowOptions, show
from jaxch5.train import TrainOptions, train
from jaxch5.verify import VerifyOptions, verify


def started(*argv):
    return run(pack, PackOptions, "jaxch5 pack", [str(word) for word in argv])


def test_source_and_out_are_all_it_needs(pictures, tmp_path, capsys):
    assert started(pictures, tmp_path / "set") == 0
    line = capsys.readouterr().out
    assert "40 pictures of 2 classes at presize 192" in line
    assert line.endswith(f"--data.path {tmp_path / 'set'}\n")
    # The source may be named by its setting, or be the default (the digits), and options may stand
    # anywhere.
    out = tmp_path / "other"
    assert started("--data.path", pictures, "--data.presize", 24, out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["presize"] == 24
    assert started(pictures, "--data.presize", 24, out) == 0
    assert started("--data.presize", 24, tmp_path / "digits") == 0
    assert "1,797 pictures of 10 classes" in capsys.readouterr().out


def test_what_is_left_out_is_listed(pictures, tmp_path, capsys):
    shutil.copytree(pictures, tmp_path / "all")
    (tmp_path / "all" / "red" / "3.jpg").write_bytes(b"no picture")
    arguments = [tmp_path / "all", tmp_path / "set", "--data.presize", 24]
    assert started(*arguments) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert started(*arguments, "--data.on-bad", "skip", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["pictures"] == 39
    assert [line[:9] for line in report["skipped"]] == ["red/3.jpg"]
    assert set(report) == {
        "out", "pictures", "classes", "presize", "shards", "bytes", "seconds", "skipped",
    }  # fmt: skip


@pytest.mark.parametrize(
    "words", [("--data.valid-fraction", "0.5"), ("--data.stratify",), ("--data.split-seed", "1")]
)
def test_a_random_split_is_left_to_those_who_train_on_the_set(words, pictures, tmp_path, capsys):
    assert started(pictures, tmp_path / "set", *words) == 2
    assert f"{words[0].lstrip('-').replace('-', '_')}: jaxch5 pack does" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_a_presize_may_be_below_the_size_of_the_file(pictures, tmp_path, capsys):
    """The file is meant for training; no network runs here, and --data.size is refused."""
    argv = ["--config", "pets_resnet50", pictures, tmp_path / "set"]
    assert started(*argv, "--data.presize", 200) == 0
    assert "at presize 200" in capsys.readouterr().out
    for words, size in (((), 224), (("--data.presize", "300"), 224)):
        options = parse(PackOptions, [*map(str, argv), *words], "jaxch5 pack")
        assert options.data.size == size


@pytest.fixture
def split_and_packed(pictures, tmp_path):
    for part, numbers in (("train", range(14)), ("valid", range(14, 20))):
        for name in ("red", "blue"):
            (tmp_path / "files" / part / name).mkdir(parents=True)
            for number in numbers:
                shutil.copy(pictures / name / f"{number}.jpg", tmp_path / "files" / part / name)
    assert started(tmp_path / "files", tmp_path / "set", "--data.presize", 36) == 0
    return tmp_path / "set"


class Tiny(nn.Module):
    """A network that is small enough to compile quickly."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3), strides=4)(x))
        return nn.Dense(2)(x.mean((1, 2)))


def test_a_packed_set_trains_with_its_own_split(split_and_packed):
    settings = {"path": split_and_packed, "presize": 36, "size": 32, "batch_size": 8}
    data = load_data(Config.model_validate({"data": settings}))
    assert {data.source.references[item] for item in data.valid.items} == {
        f"valid/{name}/{number}.jpg" for name in ("blue", "red") for number in range(14, 20)
    }
    assert len(data.train.items) == 28
    learn = vision_learner(data, Tiny())
    learn.console = Console(file=io.StringIO())
    learn.fit_one_cycle(1, 1e-2)
    assert np.isfinite(learn.records[-1]["train_loss"])


@pytest.mark.parametrize(
    ("given", "expected"), [({"size": 32}, 36), ({"size": 32, "presize": 34}, 34), ({}, None)]
)
def test_the_default_presize_is_at_most_that_of_the_packed_set(split_and_packed, given, expected):
    """If the set is smaller than the network's input, an error says what it was packed at."""
    config = Config.model_validate({"data": {"path": split_and_packed, "batch_size": 8, **given}})
    if expected:
        assert load_data(config).presize == expected
    else:
        with pytest.raises(
            ConfigError, match=r"data\.size = 128: .* packed at 36; choose --data\.si"
        ):
            load_data(config)


@pytest.mark.slow
def test_a_run_records_the_presize_that_a_packed_set_gives_it(split_and_packed, tmp_path):
    argv = [str(split_and_packed), "--data.size", "32", "--data.batch-size", "8"]
    argv += ["--fit.epochs", "1", "--workdir", str(tmp_path / "run")]
    assert run(train, TrainOptions, "train", argv) == 0
    recorded = from_toml(tmp_path / "run" / "config.toml").data
    assert (recorded.presize, recorded.size) == (36, 32)
    assert run(train, TrainOptions, "train", ["--resume", str(tmp_path / "run")]) == 0


def test_other_commands_take_it(split_and_packed, capsys):
    assert run(verify, VerifyOptions, "verify", [str(split_and_packed)]) == 0
    assert capsys.readouterr().out == "40 pictures checked: no problems\n"


def test_a_pattern_for_a_packed_set_is_an_error(split_and_packed, capsys):
    argv = [str(split_and_packed), "--data.pattern", "(.+)_1"]
    assert run(verify, VerifyOptions, "verify", argv) == 2
    assert "is a packed set, which has" in capsys.readouterr().err


def test_a_packed_set_asks_for_no_more_than_it_has(split_and_packed, tmp_path, capsys):
    argv = ["--data.path", str(split_and_packed), "--out", str(tmp_path / "batch.png")]
    argv += ["--data.presize", "192"]
    assert run(show, ShowOptions, "show", argv) == 2
    assert "--data.presize 36 or less" in capsys.readouterr().err
