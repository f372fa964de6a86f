"""Runs are said to share their validation pictures only if their records show that they do."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from jaxch5.config.building import load_data
from jaxch5.config.settings import Config
from jaxch5.data.pictures import read_pictures, write_pictures
from jaxch5.run.directory import create_run
from jaxch5.run.history import margins, read_run
from jaxch5.run.pictures import record_pictures
from tests.data.test_recognition import make


@pytest.fixture
def begun(tmp_path):
    """A function that begins a run on a path's pictures, as `jaxch5 train` does, and returns it."""

    def begin(path, seed=1, split="random"):
        data = {"path": path, "size": 8, "presize": 8, "batch_size": 4, "split": split}
        drawn = {"split_seed": seed} if split == "random" else {}
        config = Config.model_validate({"data": data | drawn})
        run = create_run(config, tmp_path / f"run{len(list(tmp_path.glob('run*')))}")
        record_pictures(run, load_data(config))
        return read_run(run.path)

    return begin


def table_of(folder, file, renamed=()):
    """Writes a table of a folder's pictures, with absolute paths.

    The pictures in `renamed` get the classes that it gives.
    """
    names = sorted(str(one.relative_to(folder)) for one in folder.glob("*/*"))
    rows = [
        f"{folder / name},{dict(renamed).get(name, name[0])},{'valid' if '0' in name else 'train'}"
        for name in names
    ]
    file.write_text("\n".join(["image,label,split", *rows]))
    return file


def same(*runs):
    return margins(runs)[1]


def test_digests_tell_where_names_and_sizes_do_not(begun, tmp_path):
    """Without digests, as in older records, it is not known whether the pictures are the same."""
    one, other = (begun(make(tmp_path / str(seed), "bmp", seed)) for seed in (0, 1))
    copied = begun(shutil.copytree(tmp_path / "0", tmp_path / "copy"))
    assert same(one, other) is False
    assert same(one, copied) is True
    for run in (one, other, copied):
        file = run.path / "pictures.jsonl.gz"
        recorded = read_pictures(file)
        write_pictures(file, replace(recorded, contents=np.full(len(recorded), -1)))
    assert same(one, other) is None
    assert same(one, copied) is None


def test_equal_names_of_other_pictures_do_not_make_them_the_same(begun, tmp_path):
    one, other = (begun(make(tmp_path / str(seed), "png", seed)) for seed in (0, 1))
    assert same(one, one) is True
    assert same(one, other) is False


def test_a_folder_and_a_table_of_its_files_are_the_same(begun, tmp_path):
    folder = make(tmp_path / "photos", "bmp", 0)
    run = begun(folder)
    assert same(run, begun(table_of(folder, tmp_path / "labels.csv"))) is True
    assert same(run, begun(folder, seed=2)) is False


def test_labels_are_compared_by_the_names_of_their_classes(begun, tmp_path):
    """A new first class changes the number of every other class; renaming classes changes none."""
    folder = make(tmp_path / "photos", "bmp", 0)
    run = begun(table_of(folder, tmp_path / "0.csv"), split="given")
    every = [f"{name}/{number}.bmp" for name in "ab" for number in range(10)]
    for number, (renamed, agree) in enumerate(
        (
            ({"a/1.bmp": "0"}, True),
            ({"a/0.bmp": "0", "a/1.bmp": "0"}, False),
            ({name: name[0].upper() for name in every}, False),
        ),
        start=1,
    ):
        table = table_of(folder, tmp_path / f"{number}.csv", renamed)
        assert same(run, begun(table, split="given")) is agree, renamed


def test_runs_of_one_set_that_is_not_files_are_the_same(begun):
    assert same(begun(None), begun(None)) is True
    assert same(begun(None), begun(None, seed=2)) is False


def test_a_run_without_a_record_is_not_known_to_be_the_same(begun, tmp_path):
    run, other = begun(None), begun(None)
    (other.path / "pictures.jsonl.gz").unlink()
    assert same(run, other) is None
    assert same(other, other) is None
    assert same(run, other, begun(None, seed=2)) is False
