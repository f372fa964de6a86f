"""Tests that sets of tensorflow-datasets, stored as array_record, are read without TensorFlow."""

import io
import os
import shutil
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxch5.data.image import decode
from jaxch5.data.source import remarks
from jaxch5.data.sources.tfds import from_tfds
from jaxch5.data.split import given_split
from jaxch5.errors import DataError

tfds = pytest.importorskip("tensorflow_datasets")


class TinyShapes(tfds.core.GeneratorBasedBuilder):
    """A set of grey pictures, each of which has its number as its shade."""

    VERSION = tfds.core.Version("1.0.0")
    COUNTS = {"train": 20, "test": 6}  # noqa: RUF012

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=["round", "square"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(count) for split, count in self.COUNTS.items()}

    def _generate_examples(self, count):
        for number in range(count):
            file = io.BytesIO()
            Image.new("RGB", (10, 12), (number,) * 3).save(file, "PNG")
            file.seek(0)
            yield number, {"image": file, "label": number % 2}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    TinyShapes(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def test_items_are_read_by_place(prepared, own_cache):
    source = from_tfds("tiny_shapes", prepared)
    assert source.classes == ("round", "square")
    assert len(source) == 26
    shades = [int(decode(source.read(item))[0, 0, 0]) for item in range(len(source))]
    assert sorted(shades[:20]) == list(range(20))
    np.testing.assert_array_equal(source.labels, np.array(shades) % 2)
    assert "tensorflow" not in sys.modules


def test_its_own_splits_are_kept(prepared, own_cache):
    """Items of the split "train" are for training; those of "test" are for validation."""
    source = from_tfds("tiny_shapes", prepared)
    parts = [[source.references[item] for item in part] for part in given_split()(source)]
    assert parts == [
        [f"tiny_shapes/{split}/{number:07d}" for number in range(count)]
        for split, count in TinyShapes.COUNTS.items()
    ]


def test_labels_are_read_once(prepared, own_cache):
    """The second time, labels come from the cache, not from the records.

    To show this, the test swaps the cached labels, and leaves those in the records as they are.
    """
    first = from_tfds("tiny_shapes", prepared)
    kept = list(own_cache.rglob("*.npy"))
    assert len(kept) == 2
    for file in kept:
        np.save(file, 1 - np.load(file))
    np.testing.assert_array_equal(from_tfds("tiny_shapes", prepared).labels, 1 - first.labels)


class Relabelled(TinyShapes):
    """The same pictures, with labels that a test chooses each time it prepares the set."""

    labels: tuple[int, ...] = ()

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(len(self.labels))}

    def _generate_examples(self, count):
        for number, example in super()._generate_examples(count):
            yield number, example | {"label": self.labels[number]}


def prepare(folder, labels):
    Relabelled.labels = tuple(labels)
    Relabelled(data_dir=folder, file_format="array_record").download_and_prepare()
    for file in (file for file in folder.rglob("*") if file.is_file()):
        # Archives and copies may set times like this; files then have equal sizes and times.
        os.utime(file, (1e9, 1e9))


labels_of_twelve = st.lists(st.integers(0, 1), min_size=12, max_size=12)


@settings(max_examples=6, deadline=None)
@given(first=labels_of_twelve, then=labels_of_twelve)
def test_a_set_that_was_prepared_again_has_its_new_labels(first, then, tmp_path_factory):
    """If a set is prepared again, its new labels are read, not the old ones from the cache.

    The new files have the same names, sizes and modification times as the old files.
    """
    folder = tmp_path_factory.mktemp("prepared-twice")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for labels in (first, then):
            shutil.rmtree(folder / "sets", ignore_errors=True)
            prepare(folder / "sets", labels)
            for _ in range(2):
                source = from_tfds("relabelled", folder / "sets")
                shades = [int(decode(source.read(item))[0, 0, 0]) for item in range(12)]
                assert [labels[shade] for shade in shades] == source.labels.tolist()


def test_a_set_that_is_overwritten_while_it_is_read_gives_no_picture_of_another_class(
    own_cache, tmp_path
):
    for name, label in (("old", 0), ("new", 1)):
        prepare(tmp_path / name, [label] * 12)
    stale = from_tfds("relabelled", tmp_path / "old")
    for file in (tmp_path / "new").rglob("*.array_record*"):
        shutil.copyfile(file, tmp_path / "old" / file.relative_to(tmp_path / "new"))
    with pytest.raises(DataError, match=r"relabelled/train/0000000: its label has changed"):
        stale.read(0)


@settings(max_examples=6, deadline=None)
@given(labels=st.lists(st.integers(-1, 1), min_size=1, max_size=12))
def test_every_item_is_labelled_or_counted(labels, tmp_path_factory):
    """Items without a label, such as those of a contest's test set, are left out and counted.

    tensorflow-datasets gives them the label -1.
    """
    folder = tmp_path_factory.mktemp("unlabelled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        prepare(folder / "sets", labels)
        source = from_tfds("relabelled", folder / "sets")
    shades = [int(decode(source.read(item))[0, 0, 0]) for item in range(len(source))]
    assert [labels[shade] for shade in shades] == source.labels.tolist()
    missing = labels.count(-1)
    assert len(source) == len(labels) - missing
    assert remarks(source) == [f"passed over: {missing} without a label"] * bool(missing)


def test_a_split_without_labels_is_no_split(own_cache, tmp_path):
    class Contest(TinyShapes):
        def _generate_examples(self, count):
            for number, example in super()._generate_examples(count):
                yield number, example | {"label": number % 2 if count == 20 else -1}

    Contest(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    source = from_tfds("contest", tmp_path)
    assert len(source) == 20
    assert source.columns == {}
    assert remarks(source) == ["passed over: 6 without a label"]


def test_the_choice_among_several_pictures_and_classes_is_said(own_cache, tmp_path):
    class Several(TinyShapes):
        def _info(self):
            pictures = {
                name: tfds.features.Image(shape=(None, None, 3)) for name in ("depth", "image")
            }
            classes = {name: tfds.features.ClassLabel(num_classes=2) for name in ("hue", "size")}
            features = tfds.features.FeaturesDict(pictures | classes)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _generate_examples(self, count):
            for number, example in super()._generate_examples(count):
                depth = io.BytesIO()
                Image.new("RGB", (10, 12), (200,) * 3).save(depth, "PNG")
                depth.seek(0)
                picture, label = example["image"], example["label"]
                yield number, {"depth": depth, "image": picture, "hue": label, "size": 0}

    Several(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    source = from_tfds("several", tmp_path)
    assert remarks(source) == ["classes are those of hue; also there: size"]
    shades = [int(decode(source.read(item))[0, 0, 0]) for item in range(len(source))]
    np.testing.assert_array_equal(source.labels, np.array(shades) % 2)


def test_splits_that_are_not_used_are_named(own_cache, tmp_path):
    class Parts(TinyShapes):
        COUNTS = {"train": 4, "validation": 4, "test": 6, "extra": 2}  # noqa: RUF012

    class Odd(TinyShapes):
        COUNTS = {"first": 4, "second": 4}  # noqa: RUF012

    for builder in (Parts, Odd):
        builder(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    source = from_tfds("parts", tmp_path)
    assert len(source) == 8
    assert remarks(source) == ["splits not used: test (6), extra (2)"]
    with pytest.raises(DataError, match=r"its splits: first, second"):
        from_tfds("odd", tmp_path)


def test_a_set_without_training_pictures_is_one_part(own_cache, tmp_path):
    class Held(TinyShapes):
        COUNTS = {"validation": 4, "test": 6}  # noqa: RUF012

    Held(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    source = from_tfds("held", tmp_path)
    assert len(source) == 10
    assert not source.in_parts
    assert source.columns == {}


def test_the_set_trains_through_the_block(prepared, own_cache):
    import jaxch5 as jx

    """Every batch has the pictures of its part, each with its own label."""
    data = jx.DataBlock(jx.from_tfds("tiny_shapes", prepared), jx.given_split(), 16, 8).load(4)
    for part, count in ((data.train, 20), (data.valid, 6)):
        shades = []
        for batch in part:
            shown = batch.image[batch.mask][:, 8, 8, 0]
            np.testing.assert_array_equal(batch.label[batch.mask], shown % 2)
            shades += shown.tolist()
        assert sorted(shades) == list(range(count))


@pytest.mark.parametrize("name", ["oxford_iiit_pet", "tf_flowers", "imagenette"])
def test_a_set_that_cannot_be_had_says_what_was_tried(name, tmp_path, monkeypatch):
    import jaxch5.data.sources.tfds as module

    monkeypatch.setattr(module, "reachable", lambda address: False)
    with pytest.raises(DataError, match=f"{name}.*http.*--data.tfds-dir") as error:
        from_tfds(name, tmp_path / "none")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "none").exists()


def test_an_unknown_set_is_named(tmp_path):
    with pytest.raises(DataError, match="no_such_set"):
        from_tfds("no_such_set", tmp_path)
