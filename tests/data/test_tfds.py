"""tensorflow-datasets: written to array_record and read back with no TensorFlow."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from jaxch5.data.image import decode
from jaxch5.data.split import given_split
from jaxch5.data.tfds import from_tfds
from jaxch5.errors import DataError

tfds = pytest.importorskip("tensorflow_datasets")


class TinyShapes(tfds.core.GeneratorBasedBuilder):
    """Grey pictures whose shade is their number."""

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
    train, valid = given_split()(from_tfds("tiny_shapes", prepared))
    assert (len(train), len(valid)) == (20, 6)


def test_labels_are_read_once(prepared, own_cache):
    first = from_tfds("tiny_shapes", prepared)
    kept = list(own_cache.rglob("*.npy"))
    assert len(kept) == 2
    np.testing.assert_array_equal(from_tfds("tiny_shapes", prepared).labels, first.labels)


def test_the_set_trains_through_the_block(prepared, own_cache):
    import jaxch5 as jx

    data = jx.DataBlock(jx.from_tfds("tiny_shapes", prepared), jx.given_split(), 16, 8).load(4)
    batch = next(iter(data.train))
    assert batch.image.shape == (4, 16, 24, 3)


@pytest.mark.parametrize("name", ["oxford_iiit_pet", "tf_flowers", "imagenette"])
def test_a_set_that_cannot_be_had_says_what_was_tried(name, tmp_path, monkeypatch):
    import jaxch5.data.tfds as module

    monkeypatch.setattr(module, "reachable", lambda address: False)
    with pytest.raises(DataError, match=f"{name}.*http.*--data.tfds-dir") as error:
        from_tfds(name, tmp_path / "none")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "none").exists()


def test_an_unknown_set_is_named(tmp_path):
    with pytest.raises(DataError, match="no_such_set"):
        from_tfds("no_such_set", tmp_path)
