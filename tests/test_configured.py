"""Settings reach the learner, and each of them changes what is trained or how."""

import io
import platform

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from jaxch5 import configured
from jaxch5.config.building import load_source
from jaxch5.config.settings import Config, FitConfig
from jaxch5.configured import data_of, loss_of, schedule_of, train_as_configured
from jaxch5.data import block
from jaxch5.data.block import DataBlock
from jaxch5.data.image import canvas_shape
from jaxch5.data.split import random_split
from jaxch5.errors import ConfigError, DataError
from jaxch5.losses import cross_entropy, focal_loss
from jaxch5.run.directory import create_run
from jaxch5.run.history import total_epochs
from jaxch5.run.pictures import record_pictures
from jaxch5.training import hosts


def settings(**fit):
    return Config.model_validate({"fit": fit}).fit


@pytest.mark.parametrize(
    ("fit", "expected"),
    [
        ({}, lambda logits, labels: cross_entropy(logits, labels)),
        (
            {"label_smoothing": 0.1},
            lambda logits, labels: cross_entropy(logits, labels, label_smoothing=0.1),
        ),
        (
            {"loss": "focal", "gamma": 3.0},
            lambda logits, labels: focal_loss(logits, labels, gamma=3.0),
        ),
    ],
    ids=["plain", "smooth", "focal"],
)
def test_the_loss_is_the_one_that_is_named(fit, expected):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(7, 3)).astype(np.float32), rng.integers(0, 3, 7)
    assert float(loss_of(settings(**fit))(logits, labels)) == float(expected(logits, labels))


def test_every_schedule_is_the_one_that_is_named():
    flat = schedule_of(settings(schedule="flat_cosine", epochs=4, pct_start=0.5, lr=0.1), 10)
    assert [flat(0), flat(20)] == [0.1, 0.1]
    assert flat(30) == pytest.approx(0.05, rel=1e-4)
    waves = schedule_of(settings(schedule="sgdr", cycle_epochs=1, lr=0.1), 10)
    assert [waves(0), waves(10), waves(30)] == pytest.approx([0.1, 0.1, 0.1])
    assert waves(9) < 0.01


class Listener:
    """Stands in for a learner, and notes which methods are called with which arguments."""

    def __init__(self):
        self.calls = []
        self.data = type("Data", (), {"train": range(10)})
        self.console = Console(file=io.StringIO())

    def __getattr__(self, name):
        return lambda *arguments: self.calls.append((name, arguments))


@pytest.mark.parametrize(
    ("fit", "call"),
    [
        (
            {"epochs": 2, "lr": 0.1},
            ("fit_one_cycle", (2, 0.1, 25.0, 1e5, 0.25, (0.95, 0.85, 0.95))),
        ),
        (
            {"epochs": 2, "schedule": "fine_tune", "freeze_epochs": 3, "lr_mult": 10},
            ("fine_tune", (2, 2e-3, 3, 10.0, 0.3, 5.0, 1e5, (0.95, 0.85, 0.95))),
        ),
    ],
)
def test_training_is_called_with_every_setting(fit, call):
    learn = Listener()
    train_as_configured(learn, settings(**fit))
    assert learn.calls == [call]


def test_any_other_schedule_trains_at_the_first_momentum():
    learn = Listener()
    train_as_configured(learn, settings(schedule="triangular", epochs=3))
    ((name, (epochs, rate, momentum)),) = learn.calls
    assert (name, epochs, momentum) == ("fit", 3, 0.95)
    assert rate(10) == pytest.approx(2e-3)


@pytest.mark.parametrize(
    ("given", "schedule", "lr", "head"),
    [
        ({}, "one_cycle", 2e-3, "linear"),
        ({"data": {"path": "x"}}, "fine_tune", 2e-3, "concat_pool"),
        ({"data": {"path": "x"}, "model": {"weights": "none"}}, "one_cycle", 2e-3, "concat_pool"),
        ({"model": {"weights": "imagenet"}}, "fine_tune", 2e-3, "linear"),
        ({"model": {"weights": "imagenet"}, "fit": {"lr": 1.0}}, "fine_tune", 1.0, "linear"),
        ({"fit": {"schedule": "fine_tune"}}, "fine_tune", 2e-3, "linear"),
    ],
)
def test_pretrained_weights_are_fine_tuned_unless_another_schedule_is_named(
    given, schedule, lr, head
):
    config = Config.model_validate(given)
    assert (config.fit.schedule, config.fit.lr, config.model.head) == (schedule, lr, head)


def test_smoothing_goes_with_cross_entropy_only():
    with pytest.raises(ValueError, match=r"fit\.label_smoothing = 0\.1: only works with fit\.loss"):
        FitConfig(loss="focal", label_smoothing=0.1)


def test_the_processes_of_a_host_share_its_memory(monkeypatch):
    """Together they keep no more pictures than one process would; another host has its own."""
    need = 1797 * int(np.prod(canvas_shape(Config().data.presize)))
    monkeypatch.setattr(block, "free_memory", lambda: 5 * need)
    for processes, cache in ((1, "memory"), (2, "off")):
        # The first process is on another host.
        names = ["elsewhere"] + [platform.node()] * processes
        monkeypatch.setattr(hosts, "gather", lambda text, names=names: names)
        monkeypatch.setattr(configured, "agree", lambda values: None)
        data, _ = data_of(Config(), None, lambda line: None)
        assert data.cache == cache


def test_processes_may_keep_pictures_in_memory_or_not(monkeypatch):
    """Only a cache on the device changes the programs that all have to compile alike."""
    compared = []
    monkeypatch.setattr(configured, "agree", compared.append)

    def of(cache):
        compared.clear()
        data_of(Config.model_validate({"data": {"cache": cache}}), None, lambda line: None)
        return [*compared]

    assert of("off") == of("memory") != of("device")


def test_the_phases_count_together():
    assert total_epochs(settings(schedule="fine_tune", epochs=6, freeze_epochs=3)) == 9
    assert total_epochs(settings(epochs=6)) == 6


PARTS = ["train"] * 14 + ["valid"] * 6


@pytest.mark.parametrize(
    ("columns", "settings", "line"),
    [
        ({"split": ["0"] * 14 + ["1"] * 6}, {}, "if true means validation, choose"),
        ({"split": [*PARTS[1:], "trian"]}, {}, "trian is neither"),
        ({"split": PARTS, "set": PARTS}, {}, "say which one"),
        ({"split": PARTS}, {"valid_fraction": 0.3}, "only works with a random split"),
    ],
    ids=["0/1", "wrong word", "two columns", "fraction"],
)
def test_a_run_goes_on_with_its_parts_though_its_split_would_be_refused_now(
    columns, settings, line, tmp_path
):
    """A resumed run keeps the split that it recorded, whatever its configuration would mean now.

    Earlier versions overlooked some columns and drew the split at random. A new run with such a
    configuration is refused.
    """
    rows = [",".join(("image", "label", *columns))]
    for number, words in enumerate(zip(*columns.values(), strict=True)):
        Image.new("RGB", (8, 8), (10 * number, 0, 0)).save(tmp_path / f"{number}.png")
        rows.append(",".join((f"{number}.png", "ab"[number % 2], *words)))
    (tmp_path / "t.csv").write_text("\n".join(rows))
    small = {"path": tmp_path / "t.csv", "presize": 8, "size": 8, "batch_size": 4}
    config = Config.model_validate({"data": {**small, **settings}})
    source, split = load_source(config.data), random_split(0.3, seed=5)
    run = create_run(config, tmp_path / "run")
    record_pictures(run, DataBlock(source, split, presize=8, size=8).load(4))

    said = []
    data, _ = data_of(config, run, said.append)
    assert [part.items.tolist() for part in (data.train, data.valid)] == [
        part.tolist() for part in split(source)
    ]
    assert said[0].startswith("20 pictures of 2 classes: 14 for training, 6 for validation")
    # A resumed run would refuse another batch size.
    assert said[1].startswith("each epoch leaves out 2 of its 14 draws")
    assert "--data." not in said[1]
    with pytest.raises((DataError, ConfigError), match=line):
        data_of(config, None, said.append)
