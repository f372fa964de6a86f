"""Fetching: once, whole or not at all, and never a long wait for nobody."""

import io
import re
import shutil
import socket
import tarfile
import time
import zipfile
from types import SimpleNamespace

import pytest

from jaxch5.data.download import fetch_archive, fetch_links, file_name_for, unpack
from jaxch5.errors import DataError
from jaxch5.network import reachable


@pytest.fixture
def nobody():
    """An address at which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return f"http://127.0.0.1:{port}"


def zipped(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return content.getvalue()


def tarred(files):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    return content.getvalue()


def test_links_are_fetched_once(server, tmp_path):
    links = [server.link(f"{number}.jpg", b"%d" % number) for number in range(40)]
    for _ in range(2):
        files = fetch_links(links, tmp_path)
    assert [files[link].read_bytes() for link in links] == [b"%d" % number for number in range(40)]
    assert set(server.asked.values()) == {1}


def test_links_are_fetched_at_the_same_time(server, tmp_path):
    links = [server.link(f"slow/{number}.jpg") for number in range(8)]
    for number in range(8):
        server.link(f"{number}.jpg", b"late")
    began = time.perf_counter()
    fetch_links(links, tmp_path)
    assert time.perf_counter() - began < 5


def test_moved_and_shaky_links_arrive(server, tmp_path):
    server.link("a.jpg", b"here")
    links = [server.link("moved/a.jpg"), server.link("shaky/a.jpg")]
    assert {file.read_bytes() for file in fetch_links(links, tmp_path).values()} == {b"here"}
    assert server.asked["/shaky/a.jpg"] == 2


def test_a_dead_link_is_named_and_the_others_are_kept(server, tmp_path):
    alive, dead = server.link("a.jpg", b"here"), server.link("gone.jpg")
    with pytest.raises(DataError, match=r"gone\.jpg: there is no such file"):
        fetch_links([alive, dead], tmp_path)
    assert fetch_links([alive], tmp_path)[alive].read_bytes() == b"here"
    assert server.asked["/a.jpg"] == 1
    assert server.asked["/gone.jpg"] == 1


def test_a_server_in_trouble_is_asked_three_times(server, tmp_path):
    with pytest.raises(DataError, match=r"broken/a\.jpg: the server answered 503"):
        fetch_links([server.link("broken/a.jpg")], tmp_path)
    assert server.asked["/broken/a.jpg"] == 3


def test_nobody_there_is_found_out_soon(nobody, tmp_path):
    began = time.perf_counter()
    with pytest.raises(DataError, match="127"):
        fetch_links([f"{nobody}/{number}.jpg" for number in range(100)], tmp_path)
    with pytest.raises(DataError, match="no answer"):
        fetch_archive(f"{nobody}/a.zip", folder=tmp_path)
    assert time.perf_counter() - began < 15
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


@pytest.mark.parametrize("packed", [zipped, tarred])
def test_an_archive_is_fetched_and_unpacked_once(packed, server, tmp_path):
    link = server.link("pets.bin", packed({"cats/a.txt": b"miau"}))
    for _ in range(2):
        folder = fetch_archive(link, folder=tmp_path)
    assert (folder / "cats" / "a.txt").read_bytes() == b"miau"
    assert server.asked["/pets.bin"] == 1


def test_an_archive_with_another_checksum_is_refused(server, tmp_path):
    link = server.link("pets.zip", zipped({"a.txt": b"miau"}))
    with pytest.raises(DataError, match="SHA-256"):
        fetch_archive(link, sha256="0" * 64, folder=tmp_path)
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_an_archive_taken_unchecked_does_not_pass_a_checksum(server, tmp_path):
    link = server.link("pets.zip", zipped({"a.txt": b"miau"}))
    fetch_archive(link, folder=tmp_path)
    with pytest.raises(DataError, match="SHA-256"):
        fetch_archive(link, sha256="0" * 64, folder=tmp_path)


def test_a_server_that_is_not_there_is_not_taken_for_a_folder_that_cannot_be_written(tmp_path):
    """Not over other protocols than HTTP either, whose errors are the system's own."""
    with pytest.raises(DataError, match=r"ftp://127\.0\.0\.1/a\.zip: no answer"):
        fetch_archive("ftp://127.0.0.1/a.zip", folder=tmp_path)


def test_an_archive_that_is_not_there_is_named(server, tmp_path):
    with pytest.raises(DataError, match="404"):
        fetch_archive(server.link("gone.zip"), folder=tmp_path)


@pytest.mark.parametrize("packed", [zipped, tarred])
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


def tar_of(*members):
    """A tar file of members that `tarred` does not make: of each a name, and what it is."""
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


def test_a_link_in_a_zip_is_a_file_like_any_other(tmp_path):
    """Unix keeps a link's target as its content; nothing is written through it."""
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
    """As tar writes a file that has two names."""
    (tmp_path / "a.tgz").write_bytes(tar_of(("a/1.png", FILE, ""), ("b/1.png", HARD, "a/1.png")))
    unpack(tmp_path / "a.tgz", tmp_path / "out")
    assert (tmp_path / "out" / "b" / "1.png").read_bytes() == b"bad"


@pytest.mark.parametrize("kind", ["zip", "tar", "many"])
def test_a_bomb_is_not_unpacked(kind, tmp_path, monkeypatch):
    """Neither a few files of zeros, nor many empty ones; what was begun is removed."""
    monkeypatch.setattr("jaxch5.data.download.FREE_GROWTH", 10**6)
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
    with pytest.raises(DataError, match="unpacked it would take more than"):
        unpack(archive, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["bomb"]


def test_a_zip_that_lies_about_its_sizes_is_refused(tmp_path):
    """It says ten bytes and holds a million: ten are read, and found to be wrong."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("zeros", bytes(10**6))
    lying = content.getvalue().replace((10**6).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    (tmp_path / "a.zip").write_bytes(lying)
    with pytest.raises(DataError, match=r"a\.zip: cannot be unpacked"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_a_disk_is_never_filled(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
    (tmp_path / "a.zip").write_bytes(zipped({"a.txt": b"miau" * 3000}))
    with pytest.raises(DataError, match="free on the disk"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


HARMFUL_LINKS = ["../../a.jpg", "..%2f..%2fa.jpg", "a/..;/b.jpg", "x" * 3000 + ".jpg", "a.j/../pg"]


@pytest.mark.parametrize("end", HARMFUL_LINKS)
def test_no_address_names_a_file_elsewhere(end):
    name = file_name_for(f"https://host/{end}")
    assert re.fullmatch(r"[0-9a-f]{32}(\.[A-Za-z0-9]{1,8})?", name)


@pytest.mark.parametrize("link", ["zip://a.jpg::file:///a.zip", "reference://::file:///a.json"])
def test_links_through_other_links_are_refused(link, tmp_path):
    """fsspec has file systems that render templates or start programs; one address names one."""
    with pytest.raises(DataError, match="with :: is refused"):
        fetch_links([link], tmp_path)


# Named, because an archive's bytes hold the time: two workers would collect tests of two names.
@pytest.mark.parametrize(
    "content",
    [b"", b"no archive", zipped({"a": b"b" * 99})[:60]],
    ids=["empty", "text", "cut short"],
)
def test_a_damaged_archive_leaves_nothing(content, tmp_path):
    archive = tmp_path / "a.zip"
    archive.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.zip"):
        unpack(archive, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_no_two_addresses_share_a_file():
    names = {file_name_for(f"https://host/{end}") for end in ("a.jpg", "b.jpg", "a.jpg?x=1", "a")}
    assert len(names) == 4
    assert all(len(name) < 60 and "/" not in name for name in names)


def test_an_address_that_never_answers_is_given_up(nobody):
    """As behind a wall that drops what it does not like."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.perf_counter()
        assert not reachable(f"http://127.0.0.1:{silent.getsockname()[1]}/a.tgz")
        assert not reachable(f"{nobody}/a.tgz")
    assert time.perf_counter() - began < 10


def test_an_address_that_answers_anything_is_reachable(server):
    assert reachable(server.link("gone.tgz"))
