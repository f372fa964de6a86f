"""Tests that archives are unpacked in full or not at all, and that bombs are refused.

Nothing is ever written outside of the folder into which an archive is unpacked.
"""

import io
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxch5.data.sources.unpack import unpack
from jaxch5.errors import DataError


@pytest.mark.parametrize("name", ["../outside.txt", "/tmp/jaxch5-outside.txt", "a/../../outside"])
def test_nothing_is_written_outside_of_the_folder(packed, name, tmp_path):
    archive = tmp_path / "in" / "a.bin"
    archive.parent.mkdir()
    archive.write_bytes(packed({"good.txt": b"good", name: b"bad"}))
    try:
        unpack(archive, archive.parent / "out")
    except DataError:
        assert not (archive.parent / "out").exists()
    inside = {"in", "a.bin", "out", "good.txt", "tmp", "jaxch5-outside.txt"}
    assert {path.name for path in tmp_path.rglob("*")} <= inside
    assert not list((tmp_path).glob("outside*"))
    assert not Path("/tmp/jaxch5-outside.txt").exists()


def tar_of(*members):
    """Returns a compressed tar file; each member is given by its name, type and link target.

    The fixture `tarred` makes regular files only.
    """
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, kind, target in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            text = b"bad" if kind == tarfile.REGTYPE else b""
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    return content.getvalue()


FILE, LINK, HARD = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
LONG = "d" * 247
HOSTILE = {
    "a link, and a file through it": [("up", LINK, "../.."), ("up/outside", FILE, "")],
    "a link to an absolute path": [("up", LINK, "/tmp"), ("up/jaxch5-outside.txt", FILE, "")],
    "a link within, moved out by another": [
        ("a", LINK, "."),
        ("a/b", LINK, ".."),
        ("b/c", FILE, ""),
    ],
    "a link to a file, written through": [("x", LINK, "../../outside"), ("x", FILE, "")],
    "a hard link to a file outside": [("x", HARD, "../secret"), ("x", FILE, "")],
    "a hard link to an absolute path": [("x", HARD, "/etc/hostname")],
    "a device": [("null", tarfile.CHRTYPE, "")],
    "a pipe that would be waited for": [("pipe", tarfile.FIFOTYPE, "")],
    "links too long for the system": [
        *((f"{LONG}/" * depth + "l", LINK, LONG) for depth in range(16)),
        ("l/" * 16 + "x", LINK, "../" * 16),
        ("l/" * 16 + "x/outside", FILE, ""),
    ],
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_is_written_through_links_or_to_devices(kind, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_text("secret")
    archive = tmp_path / "in" / "a.tar.gz"
    archive.write_bytes(tar_of(*HOSTILE[kind]))
    with pytest.raises(DataError, match=r"a\.tar\.gz"):
        unpack(archive, tmp_path / "in" / "out")
    assert {path.name for path in tmp_path.rglob("*")} == {"in", "a.tar.gz", "secret"}
    assert (tmp_path / "secret").read_text() == "secret"
    assert not Path("/tmp/jaxch5-outside.txt").exists()


def test_a_link_in_a_zip_is_a_file_like_any_other(tmp_path):
    """A link becomes a file that contains the target's path; nothing is written to the target."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = (0o120777) << 16
        archive.writestr(link, str(tmp_path / "outside"))
    (tmp_path / "a.zip").write_bytes(content.getvalue())
    unpack(tmp_path / "a.zip", tmp_path / "out")
    assert not (tmp_path / "out" / "link").is_symlink()
    assert not (tmp_path / "outside").exists()


def test_a_hard_link_within_is_a_picture_that_is_there_twice(tmp_path):
    """Tar stores the second name of a file as a hard link; both names are unpacked."""
    (tmp_path / "a.tgz").write_bytes(tar_of(("a/1.png", FILE, ""), ("b/1.png", HARD, "a/1.png")))
    unpack(tmp_path / "a.tgz", tmp_path / "out")
    assert (tmp_path / "out" / "b" / "1.png").read_bytes() == b"bad"


def zip_of(*names):
    """Returns a zip file that stores the given bytes as names, without the flag for UTF-8."""
    content = io.BytesIO()
    marks = [f"{number:@>{len(name)}}" for number, name in enumerate(names)]
    with zipfile.ZipFile(content, "w") as archive:
        for mark, name in zip(marks, names, strict=True):
            archive.writestr(mark, name)
    packed = content.getvalue()
    for mark, name in zip(marks, names, strict=True):
        assert packed.count(mark.encode()) == 2
        packed = packed.replace(mark.encode(), name)
    return packed


def test_names_in_a_zip_are_those_that_it_was_made_of(tmp_path):
    """Names may be UTF-8, with or without the flag, or code page 437, and may have backslashes."""
    names = ["caf\u00e9/1.png".encode(), "caf\u00e9/2.png".encode("cp437"), rb"tea\green\3.png"]
    (tmp_path / "a.zip").write_bytes(zip_of(*names, b"empty\\"))
    unpack(tmp_path / "a.zip", tmp_path / "out")
    files = {path.relative_to(tmp_path / "out").as_posix() for path in tmp_path.rglob("*.png")}
    assert files == {"caf\u00e9/1.png", "caf\u00e9/2.png", "tea/green/3.png"}
    assert (tmp_path / "out" / "caf\u00e9" / "1.png").read_bytes() == names[0]
    assert (tmp_path / "out" / "empty").is_dir()
    with zipfile.ZipFile(tmp_path / "flag.zip", "w") as archive:
        archive.writestr("caf\u251c\u2310.png", "such a name is kept if the flag says so")
    unpack(tmp_path / "flag.zip", tmp_path / "flag")
    assert [path.name for path in (tmp_path / "flag").iterdir()] == ["caf\u251c\u2310.png"]


@pytest.mark.parametrize("name", [rb"..\outside.png", rb"a\..\..\outside.png", rb"\outside.png"])
def test_nothing_is_written_outside_by_backslashes(name, tmp_path):
    (tmp_path / "a.zip").write_bytes(zip_of(name))
    with pytest.raises(DataError, match=r"outside\.png, which would be written outside its folder"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["a.zip"]


@pytest.mark.parametrize(
    "content",
    [
        zip_of(b"dir/", b"dir/", b"dir/1.png", b"dir/2.png", rb"dir\./1.png"),
        tar_of(("dir/1.png", FILE, ""), ("dir/2.png", FILE, ""), ("dir/1.png", FILE, "")),
    ],
    ids=["zip", "tar"],
)
def test_a_file_that_is_there_twice_is_refused_and_not_replaced(content, tmp_path):
    """A folder, however, may be listed any number of times."""
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(DataError, match=r"a: holds dir/(\./)?1.png twice, .*; unpack it yourself"):
        unpack(tmp_path / "a", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["zip", "tar", "many"])
def test_a_bomb_is_not_unpacked(kind, tmp_path, monkeypatch, tarred):
    """Neither a large file of zeros nor many empty files are unpacked, and no traces are left."""
    monkeypatch.setattr("jaxch5.data.sources.unpack.FREE_GROWTH", 10**6)
    zeros = bytes(10**7)
    archive = tmp_path / "bomb"
    if kind == "zip":
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr("zeros", zeros)
        archive.write_bytes(content.getvalue())
    elif kind == "tar":
        archive.write_bytes(tarred({"zeros": zeros}))
    else:
        archive.write_bytes(tarred({f"{number}": b"" for number in range(600)}))
    with pytest.raises(DataError, match="unpacked, it would take more room than"):
        unpack(archive, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["bomb"]


def test_a_zip_that_lies_about_its_sizes_is_refused(tmp_path):
    """The zip claims ten bytes but holds a million; ten are read, and their checksum is wrong."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("zeros", bytes(10**6))
    lying = content.getvalue().replace((10**6).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    (tmp_path / "a.zip").write_bytes(lying)
    with pytest.raises(DataError, match=r"a\.zip: cannot be unpacked"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_a_disk_is_never_filled(tmp_path, monkeypatch, zipped):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
    (tmp_path / "a.zip").write_bytes(zipped({"a.txt": b"miau" * 3000}))
    with pytest.raises(DataError, match="free on the disk"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("kind", ["empty", "text", "cut short"])
def test_a_damaged_archive_leaves_nothing(kind, tmp_path, zipped):
    cut = zipped({"a": b"b" * 99})[:60]
    archive = tmp_path / "a.zip"
    archive.write_bytes({"empty": b"", "text": b"no archive", "cut short": cut}[kind])
    with pytest.raises(DataError, match=r"a\.zip"):
        unpack(archive, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


@given(st.data())
def test_an_archive_that_is_cut_anywhere_is_refused_or_whole(data):
    """An archive that is cut short is never unpacked in part.

    The module tarfile itself takes a header that is cut or damaged for the archive's end.
    """
    form = data.draw(st.sampled_from(["w", "w:gz", "zip"]))
    files = {f"{number}.txt": bytes([number]) * 700 for number in range(4)}
    content = io.BytesIO()
    if form == "zip":
        with zipfile.ZipFile(content, "w") as archive:
            for name, text in files.items():
                archive.writestr(name, text)
    else:
        with tarfile.open(fileobj=content, mode=form) as archive:
            for name, text in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text))
    whole = content.getvalue()
    cut = whole[: data.draw(st.integers(0, min(len(whole), 7000)))]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        file, out = folder / "a", folder / "out"
        file.write_bytes(cut)
        refused = ""
        try:
            unpack(file, out, "https://example.org/a")
        except DataError as error:
            refused = str(error)
        unpacked = {path.name: path.read_bytes() for path in folder.glob("out/*")}
    assert unpacked == ({} if refused else files)
    assert refused.startswith("https://example.org/a: " if refused else "")


def test_a_tar_file_with_a_damaged_header_in_the_middle_is_refused(tmp_path):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name in "abc":
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    damaged = bytearray(content.getvalue())
    damaged[512 + 100] ^= 1
    (tmp_path / "a.tar").write_bytes(damaged)
    with pytest.raises(DataError, match=r"a\.tar: cannot be unpacked: it is cut short, or damaged"):
        unpack(tmp_path / "a.tar", tmp_path / "out")
