"""Tests that packing keeps pictures, classes and labels, even if it is stopped and resumed."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from dm_pix import psnr

from jaxch5.data.image import presize
from jaxch5.data.packing import pack
from jaxch5.data.source import canvas_of, from_arrays
from jaxch5.data.sources.folder import from_folder
from jaxch5.data.sources.packed import from_packed
from jaxch5.data.split import given_split, random_split
from jaxch5.errors import ConfigError, DataError

SIZE = 24


def smooth(height, width, seed):
    """Returns a picture with gradients and an edge, which is more like a photograph than noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    color, slope = rng.uniform(40, 160, 3), rng.uniform(0, 80, (2, 3))
    pixels = color + x[..., None] * slope[0] + y[..., None] * slope[1] + 30 * (x > y)[..., None]
    return pixels.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def source():
    """Provides landscape, portrait and square pictures, some of which are very long or small."""
    sizes = [(40, 60), (60, 40), (50, 50), (30, 200), (200, 30), (12, 17), (49, 50), (61, 60)]
    images = [smooth(*sizes[number % len(sizes)], number) for number in range(40)]
    return from_arrays(images, np.arange(40) % 2, ["even", "odd"])


@pytest.fixture(scope="module")
def packed(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "set"
    pack(source, out, SIZE, shard_size=15)
    return out


def upright(canvas, frame):
    """Returns the picture on a canvas, turned upright; the frame tells where the picture is."""
    length = int(np.abs(frame[:2, :2]).max())
    picture = canvas[:, :length]
    return np.rot90(picture, -1) if frame[0, 0] == 0 else picture


def test_pictures_come_back_as_presize_makes_them(source, packed):
    again = from_packed(packed)
    place = {name: item for item, name in enumerate(source.references)}
    for item, name in enumerate(again.references):
        wanted, frame = presize(source.read(place[name]), SIZE)
        canvas, its_frame = canvas_of(again, item, SIZE)
        if abs(np.diff(source.read(place[name]).shape[:2])[0]) > 2:
            np.testing.assert_array_equal(its_frame, frame)
        # A picture that presizing makes square may lie turned on the canvas; its frame tells.
        one, other = upright(wanted, frame), upright(canvas, its_frame)
        assert one.shape == other.shape
        assert float(psnr(one / 255.0, other / 255.0)) > 35


def test_labels_classes_and_names_are_the_same(source, packed):
    again = from_packed(packed)
    assert again.classes == source.classes
    assert sorted(again.references) == list(source.references)
    labels = dict(zip(source.references, source.labels, strict=True))
    assert [labels[name] for name in again.references] == again.labels.tolist()
    assert again.labels.dtype == np.int32


def test_shards_are_mixed(packed):
    """Every shard has pictures of both classes, so that reading in order mixes the classes."""
    for number in range(3):
        assert len(set(from_packed(packed, slice(number, number + 1)).labels)) == 2


def test_the_random_split_is_that_of_the_originals(source, packed):
    """A run on the packed set holds out the same pictures as a run on the files."""
    again = from_packed(packed)
    held_out = [
        {one.references[item] for item in random_split(0.3, seed=5)(one)[1]}
        for one in (source, again)
    ]
    assert held_out[0] == held_out[1]


def test_a_split_of_the_sources_own_is_kept(source, tmp_path):
    in_valid = np.arange(40) % 3 == 0
    pack(source, tmp_path / "set", SIZE, in_valid, shard_size=15)
    again = from_packed(tmp_path / "set")
    _, valid = given_split()(again)
    wanted = {source.references[item] for item in np.flatnonzero(in_valid)}
    assert {again.references[item] for item in valid} == wanted


KILLED = """
import os, signal, sys
from dataclasses import replace
from jaxch5.data.packing import pack
from jaxch5.data.sources.folder import from_folder
source = from_folder(sys.argv[1])
reads = []
def read(item):
    reads.append(item)
    if len(reads) == 29:
        os.kill(os.getpid(), signal.SIGKILL)
    return source.read(item)
pack(replace(source, read=read), sys.argv[2], 24, shard_size=10)
"""


def test_killed_and_started_again_it_goes_on(pictures, tmp_path):
    from dataclasses import replace

    whole, out = tmp_path / "whole", tmp_path / "killed"
    pack(from_folder(pictures), whole, SIZE, shard_size=10)
    ended = subprocess.run([sys.executable, "-c", KILLED, pictures, out], check=False)
    assert ended.returncode == -9
    with pytest.raises(DataError, match=r"only partly packed; .* to resume"):
        from_packed(out)

    source, reads = from_folder(pictures), []
    counted = replace(source, read=lambda item: reads.append(item) or source.read(item))
    pack(counted, out, SIZE, shard_size=10)
    assert 20 <= len(reads) <= 30
    assert {file.name: file.read_bytes() for file in out.iterdir()} == {
        file.name: file.read_bytes() for file in whole.iterdir()
    }
    pack(counted, out, SIZE, shard_size=10)
    assert len(reads) <= 30


def test_a_shard_that_was_removed_is_made_anew(source, packed, tmp_path):
    shutil.copytree(packed, tmp_path / "set")
    shard = next((tmp_path / "set").glob("pictures-00001*"))
    content = shard.read_bytes()
    shard.unlink()
    pack(source, tmp_path / "set", SIZE, shard_size=15)
    assert shard.read_bytes() == content


@pytest.mark.parametrize("name", ["labels.npy", "references.jsonl", "valid.npy"])
@pytest.mark.parametrize("removed", [True, False])
def test_what_is_known_about_the_items_is_made_anew_too(source, tmp_path, name, removed):
    options = {"in_valid": np.arange(40) % 3 == 0, "shard_size": 15}
    pack(source, tmp_path, SIZE, **options)
    content = (tmp_path / name).read_bytes()
    if removed:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content[:-1])
    pack(source, tmp_path, SIZE, **options)
    assert (tmp_path / name).read_bytes() == content


def test_another_set_is_not_overwritten(source, packed):
    for changes in ({"seed": 1}, {"quality": 80}, {"in_valid": np.arange(40) < 9}):
        with pytest.raises(DataError, match="holds other pictures, or the same ones packed"):
            pack(source, packed, SIZE, shard_size=15, **changes)


def test_a_picture_that_cannot_be_read_stops_it_or_is_left_out(pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "all")
    (tmp_path / "all" / "red" / "3.jpg").write_bytes(b"no picture")
    source = from_folder(tmp_path / "all")
    with pytest.raises(DataError, match=r"red/3\.jpg: is not a picture"):
        pack(source, tmp_path / "set", SIZE, shard_size=10)
    index = pack(source, tmp_path / "set", SIZE, shard_size=10, skip_bad=True)
    assert [reason[:9] for shard in index.shards for reason in shard.skipped.values()] == [
        "red/3.jpg"
    ]
    again = from_packed(tmp_path / "set")
    assert sorted(again.references) == sorted(set(source.references) - {"red/3.jpg"})
    by_name = dict(zip(source.references, source.labels, strict=True))
    assert [by_name[name] for name in again.references] == again.labels.tolist()
    for item in range(len(again)):
        again.read(item)


@pytest.mark.parametrize("broken", ["red/3.jpg", "red/*.jpg"])
def test_a_picture_that_was_left_out_and_has_been_fixed_is_added(pictures, tmp_path, broken):
    """This holds even if a class was left without pictures, so that the set could not be used."""
    shutil.copytree(pictures, tmp_path / "all")
    for file in (tmp_path / "all").glob(broken):
        file.write_bytes(b"no picture")
    source, out = from_folder(tmp_path / "all"), tmp_path / "set"
    if "*" in broken:
        with pytest.raises(DataError, match="class red has no picture left"):
            pack(source, out, SIZE, shard_size=10, skip_bad=True)
    else:
        pack(source, out, SIZE, shard_size=10, skip_bad=True)
    # A set without some of its pictures is made only for those who ask for it.
    with pytest.raises(DataError, match=r"red/\d+\.jpg: is not a picture"):
        pack(source, out, SIZE, shard_size=10)
    shutil.copytree(pictures, tmp_path / "all", dirs_exist_ok=True)
    pack(source, out, SIZE, shard_size=10)
    pack(source, tmp_path / "at once", SIZE, shard_size=10)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == {
        file.name: file.read_bytes() for file in (tmp_path / "at once").iterdir()
    }


def test_a_packed_set_can_be_packed_smaller_but_not_larger(packed, tmp_path):
    pack(from_packed(packed), tmp_path / "small", 16)
    assert len(from_packed(tmp_path / "small")) == 40
    with pytest.raises(ConfigError, match=r"presize = 32: .* packed at 24; .*--data\.presize 24"):
        pack(from_packed(packed), tmp_path / "large", 32)


def test_a_place_that_cannot_be_written_is_one_line(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file/set: ") as error:
        pack(source, tmp_path / "file" / "set", SIZE)
    assert "\n" not in str(error.value)
    assert (tmp_path / "file").read_text() == ""
