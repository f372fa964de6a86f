"""Each setting that says where pictures come from leads to the right source and split."""

import shutil

import numpy as np
import pytest
from PIL import Image

from jaxch5.cli import run
from jaxch5.config.building import load_data, load_source, policy_of, with_epochs
from jaxch5.config.settings import Config, from_toml
from jaxch5.train import TrainOptions, train


def data_of(**data):
    return load_data(Config.model_validate({"data": {"batch_size": 4, **data}}))


def test_without_anything_it_is_the_digits():
    assert len(load_source(Config().data)) == 1797


def test_a_pattern_takes_the_class_from_the_names(tmp_path):
    for name in ("cat_1.png", "cat_2.png", "dog_1.png", "dog_2.png", "dog_3.png"):
        Image.new("RGB", (9, 9)).save(tmp_path / name)
    data = data_of(path=tmp_path, pattern=r"(.+)_\d\.png", batch_size=2)
    assert data.classes == ("cat", "dog")


def test_a_table_is_split_by_its_column_unless_random_is_asked_for(pictures, tmp_path):
    rows = [f"red/{n}.jpg,red,{n < 5}\nblue/{n}.jpg,blue,{n < 5}\n" for n in range(20)]
    table = tmp_path / "t.csv"
    table.write_text("file,class,is_valid\n" + "".join(rows))
    columns = {"image_column": "file", "label_column": "class", "root": pictures}
    data = data_of(path=table, **columns)
    assert (len(data.train.items), len(data.valid.items)) == (30, 10)
    assert all("/" in data.source.references[item] for item in data.valid.items)
    data = data_of(path=table, split="random", **columns)
    assert (len(data.train.items), len(data.valid.items)) == (32, 8)


def test_folders_of_parts_can_be_split_anew(pictures, tmp_path):
    for part in ("train", "valid"):
        shutil.copytree(pictures, tmp_path / part)

    def held_out(**settings):
        data = data_of(path=tmp_path, **settings)
        return [data.source.references[item] for item in data.valid.items]

    own, anew = held_out(), held_out(split="random")
    assert len(own) == 40
    assert all(name.startswith("valid/") for name in own)
    assert len(anew) == 16
    assert {name.split("/")[0] for name in anew} == {"train", "valid"}


def test_a_stratified_split_holds_out_the_same_share_of_each_class(pictures):
    data = data_of(path=pictures, stratify=True)
    counts = np.bincount(data.source.labels[data.valid.items])
    assert counts.tolist() == [4, 4]


@pytest.mark.parametrize(("devices", "better"), [(1, "16 leaves out none"), (3, "15 leaves out 2")])
def test_a_better_batch_size_is_one_that_the_devices_can_share(devices, better, pictures):
    values = {"data": {"path": pictures, "batch_size": 24}, "fit": {"devices": devices}}
    data = load_data(Config.model_validate(values))
    assert f"1 batch of 24 (--data.batch-size {better})" in data.describe()


@pytest.mark.parametrize(("devices", "rows"), [(1, 64), (3, 63), (5, 60), (6, 60), (8, 64)])
def test_the_default_batch_size_is_one_that_the_devices_can_share(devices, rows):
    data = load_data(Config.model_validate({"fit": {"devices": devices}}))
    assert data.train.batch_size == rows
    said = f"batches of {rows}, since {devices} devices share each of them equally"
    assert (said in data.outline()) == (rows < 64)


def test_given_without_a_split_of_its_own_is_an_error(pictures):
    with pytest.raises(Exception, match="is_valid"):
        data_of(path=pictures, split="given")


def test_every_augmentation_setting_reaches_the_policy():
    settings = {"max_saturation": 0.3, "max_hue": 0.1, "p_gray": 0.2, "max_warp": 0.05}
    policy = policy_of(Config.model_validate({"augment": settings}).augment)
    assert {name: getattr(policy, name) for name in settings} == settings


def test_bad_pictures_are_skipped_for_every_command(pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "all")
    (tmp_path / "all" / "red" / "0.jpg").write_bytes(b"")
    whole = load_source(Config.model_validate({"data": {"path": pictures}}).data)
    data = data_of(path=tmp_path / "all", on_bad="skip")
    assert list(data.source.references) == [
        name for name in whole.references if name != "red/0.jpg"
    ]
    assert data.source.labels.tolist() == [0] * 20 + [1] * 19
    shown = sum(int(batch.mask.sum()) for part in (data.train, data.valid) for batch in part)
    assert shown == len(data.train) * 4 + len(data.valid.items)


def test_epochs_go_by_the_number_of_photographs_unless_they_are_given(pictures):
    """With few photographs, the default is more epochs, since short epochs teach little.

    A number of epochs that is given is kept.
    """

    def epochs(count, given=None, **config):
        settings = {"data": {"path": given}} if given else {}
        config = Config.model_validate({**settings, **config})
        return with_epochs(config, count).fit.epochs

    from_nothing = {"model": {"weights": "none"}}
    assert [epochs(n, pictures, **from_nothing) for n in (20, 200, 2_000, 10**7)] == [
        40,
        40,
        20,
        10,
    ]
    assert [epochs(n, pictures) for n in (20, 200, 2_000, 10**7)] == [12, 12, 6, 3]
    assert epochs(20, pictures, fit={"epochs": 7}) == 7
    assert epochs(1438) == 5


def test_what_the_pictures_decided_is_recorded(pictures, tmp_path, capsys, monkeypatch):
    """A run's file records the number of epochs that was chosen for the number of pictures.

    A run with this file trains for the same number of epochs, even if pictures have been added or
    removed.
    """
    (tmp_path / "ends.py").write_text("def at_once(event): raise RuntimeError('enough')")
    monkeypatch.syspath_prepend(tmp_path)
    argv = ["--data.path", str(pictures), "--model.weights", "none", "--hooks", "ends:at_once"]
    argv += ["--data.presize", "12", "--data.size", "8", "--workdir", str(tmp_path / "run")]
    assert run(train, TrainOptions, "jaxch5 train", argv) == 1
    out = capsys.readouterr().out
    assert "40 epochs, the default for 32 pictures (--fit.epochs changes it)" in out
    assert from_toml(tmp_path / "run" / "config.toml").fit.epochs == 40
