"""Files are written completely or not at all, and JSON is valid whatever values it holds."""

import json
import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxch5.util.files import making, to_json, unused, write_file


def test_what_is_made_is_there_as_a_whole_or_not_at_all(tmp_path):
    """A file or folder appears only once it is complete; if making it fails, nothing is left."""

    def fail(name):
        with making(tmp_path / name) as scratch:
            scratch.mkdir()
            (scratch / "half").touch()
            raise KeyboardInterrupt

    write_file(tmp_path / "file", b"old")
    with making(tmp_path / "file") as one:
        one.write_bytes(b"new")
        assert (tmp_path / "file").read_bytes() == b"old"
    with making(tmp_path / "folder") as folder:
        (folder / "inner").mkdir(parents=True)
    for name in ("file", "folder/inner"):
        with pytest.raises(KeyboardInterrupt):
            fail(name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "inner"]
    assert (tmp_path / "file").read_bytes() == b"new"


def test_standard_output_is_written_to_and_not_replaced(tmp_path):
    """If it is a file, nothing that is written to it is overwritten, and the link to it stays."""
    file, link = tmp_path / "file", tmp_path / "link"
    link.symlink_to("/dev/stdout")
    code = f"""
from pathlib import Path
from jaxch5.util.files import write_file
print("first", end=" ")
write_file(Path({str(link)!r}), b"content ")
print("then", end=" ")
"""
    with file.open("wb") as output:
        for _ in range(2):
            subprocess.run([sys.executable, "-c", code], stdout=output, check=True)
    assert link.is_symlink()
    assert file.read_bytes() == 2 * b"first content then "


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def as_expected(value):
    if isinstance(value, list):
        return [as_expected(one) for one in value]
    if isinstance(value, dict):
        return {key: as_expected(one) for key, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


@given(values)
def test_what_is_no_number_is_null_and_all_else_as_it_was(value):
    """`to_json` turns numbers that are not finite into null, and leaves other values as they are.

    A strict reader, which does not know NaN, can therefore read the text.
    """
    text = to_json(value)
    assert json.loads(text, parse_constant=pytest.fail) == as_expected(value)
    assert "\n" not in text


def test_what_is_there_is_never_overwritten(tmp_path):
    """`unused` returns no path that exists.

    Such a path could be the folder of an earlier run, or a list in which somebody corrects labels.
    """
    assert unused(tmp_path / "a", ".csv") == tmp_path / "a.csv"
    (tmp_path / "a.csv").touch()
    assert unused(tmp_path / "a", ".csv") == tmp_path / "a-2.csv"
    (tmp_path / "v1.5").mkdir()
    assert unused(tmp_path / "v1.5") == tmp_path / "v1.5-2"
