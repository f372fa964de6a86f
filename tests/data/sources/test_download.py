"""Files are fetched once, and completely or not at all, without long waits for dead servers."""

import re
import socket
import time
from pathlib import Path

import pytest

from jaxch5.data.source import Source, read_pixels
from jaxch5.data.sources import download
from jaxch5.data.sources.archive import from_archive
from jaxch5.data.sources.download import fetch_archive, fetch_links, file_name_for, reachable
from jaxch5.errors import DataError


@pytest.fixture
def nobody():
    """An address at which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return f"http://127.0.0.1:{port}"


def test_links_are_fetched_once(server, tmp_path, png):
    links = [server.link(f"{number}.jpg", png(number)) for number in range(40)]
    for _ in range(2):
        files, dead = fetch_links(links, tmp_path)
    assert not dead
    assert [files[link].read_bytes() for link in links] == [png(number) for number in range(40)]
    assert set(server.asked.values()) == {1}


def test_links_are_fetched_at_the_same_time(server, tmp_path, png):
    links = [server.link(f"slow/{number}.jpg") for number in range(8)]
    for number in range(8):
        server.link(f"{number}.jpg", png(0))
    began = time.perf_counter()
    fetch_links(links, tmp_path)
    assert time.perf_counter() - began < 5


def test_moved_shaky_and_cut_links_arrive(server, tmp_path, png):
    server.link("a.jpg", png(7))
    links = [server.link("moved/a.jpg"), server.link("shaky/a.jpg"), server.link("cut/a.jpg")]
    assert {file.read_bytes() for file in fetch_links(links, tmp_path).files.values()} == {png(7)}
    assert server.asked["/shaky/a.jpg"] == 2
    assert server.asked["/cut/a.jpg"] == 2


def test_a_picture_that_is_damaged_where_it_comes_from_is_kept(server, tmp_path, png):
    """A fetched picture that is damaged is kept, and the error on reading it names link and file.

    A set may thus leave the picture out, and `verify` can name its file.
    """
    link = server.link("a.png", png(7)[:40])
    (file,) = fetch_links([link], tmp_path).files.values()
    assert file.read_bytes() == png(7)[:40]
    source = Source(("a",), [0], [link], lambda item: file.read_bytes(), file=lambda item: file)
    with pytest.raises(DataError, match=f"{link} .kept as {file}.: cannot be decoded"):
        read_pixels(source, 0)


# Answers that servers give, with status 200, instead of a picture.
ANSWERS = {
    "an HTML page": b"\xef\xbb\xbf\n <!DOCTYPE html><html><title>Sign in</title></html>",
    "an HTML page once more": b"<?xml version='1.0'?><!-- --><html xmlns='x'></html>",
    "an XML document": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
    "JSON": b'{"error": "rate limit"}',
    "an empty file": b"",
    "text that begins with 'version": b"version https://git-lfs.github.com/spec/v1\noid",
    "a zip file": b"PK\x03\x04" + bytes(40),
    "of an unknown format": bytes(range(256)),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_what_is_no_picture_is_not_kept_and_said(kind, server, tmp_path, png):
    """An answer that is not a picture is reported, and its link is fetched again the next time.

    This also holds if an earlier version kept the answer.
    """
    link = server.link("a.jpg", ANSWERS[kind])
    file = tmp_path / file_name_for(link)
    for times, kept in enumerate((None, ANSWERS[kind], None), start=1):
        if kept is not None:
            file.write_bytes(kept)
        reason = fetch_links([link], tmp_path).dead[link]
        said = kind.removesuffix(" once more")
        assert reason.startswith(f"the answer is {said}")
        assert "\n" not in reason
        assert server.asked["/a.jpg"] == times
        assert file.exists() == (kept is not None)
        file.unlink(missing_ok=True)
    server.link("a.jpg", png(3))
    file.write_bytes(ANSWERS[kind])
    assert fetch_links([link], tmp_path).files[link].read_bytes() == png(3)


def test_dead_links_are_named_and_the_others_are_kept(server, tmp_path, png):
    """However many links are dead, all others are fetched, and dead ones are asked for once."""
    alive = [server.link(f"alive{number}.jpg", png(number)) for number in range(20)]
    dead = {server.link(f"gone/{number}.jpg"): "there is no such file" for number in range(20)}
    dead[server.link("forbidden/x.jpg")] = "the server answered 403 Forbidden"
    dead["https://[x/a.jpg"] = "Invalid IPv6 URL"
    fetched = fetch_links([*dead, *alive], tmp_path)
    assert fetched.dead == dead
    assert list(fetched.dead) == list(dead)
    assert [fetched.files[link].read_bytes() for link in alive] == [png(n) for n in range(20)]
    assert not any(fetched.files[link].exists() for link in dead)
    assert set(server.asked.values()) == {1}


def test_a_server_that_asks_for_patience_is_asked_again(server, tmp_path, png, monkeypatch):
    """The server may say how long to wait; a server that stays busy makes no link a dead one."""
    monkeypatch.setattr(download, "BUSY_SECONDS", 0.1)
    server.link("a.jpg", png(7))
    links = [server.link("busy/a.jpg"), server.link("later/a.jpg")]
    began = time.perf_counter()
    fetched = fetch_links(links, tmp_path)
    assert {file.read_bytes() for file in fetched.files.values()} == {png(7)}
    assert time.perf_counter() - began > 1
    with pytest.raises(DataError, match=r"flooded/a\.jpg: the server answered 429"):
        fetch_links([server.link("flooded/a.jpg")], tmp_path)
    assert server.asked["/flooded/a.jpg"] == 3


def test_a_download_that_stalls_is_tried_again(server, packed, tmp_path, png, monkeypatch):
    """But an address from which nothing has arrived is given up."""
    monkeypatch.setattr(download, "READ_SECONDS", 2)
    server.link("pets.bin", packed({"cats/a.txt": b"miau" * 1000}))
    folder = fetch_archive(server.link("stalled/pets.bin"), folder=tmp_path)
    assert (folder / "cats" / "a.txt").read_bytes() == b"miau" * 1000
    assert server.asked["/stalled/pets.bin"] == 2
    monkeypatch.setattr(download, "READ_SECONDS", 0.5)
    server.link("a.jpg", png(7))
    with pytest.raises(DataError, match=r"slow/a\.jpg: no answer"):
        fetch_links([server.link("slow/a.jpg")], tmp_path)
    assert server.asked["/slow/a.jpg"] == 1


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


def test_an_archive_is_fetched_and_unpacked_once(packed, server, tmp_path):
    link = server.link("pets.bin", packed({"cats/a.txt": b"miau"}))
    for _ in range(2):
        folder = fetch_archive(link, folder=tmp_path)
    assert (folder / "cats" / "a.txt").read_bytes() == b"miau"
    assert server.asked["/pets.bin"] == 1


def test_an_archive_that_is_cut_on_its_way_is_asked_for_again(packed, server, tmp_path):
    content = packed({"cats/a.txt": b"miau" * 1000})
    server.link("pets.bin", content)
    folder = fetch_archive(server.link("cut/pets.bin"), folder=tmp_path)
    assert (folder / "cats" / "a.txt").read_bytes() == b"miau" * 1000
    assert server.asked["/cut/pets.bin"] == 2


def test_an_archive_with_another_checksum_is_refused(server, tmp_path, zipped):
    link = server.link("pets.zip", zipped({"a.txt": b"miau"}))
    with pytest.raises(DataError, match="SHA-256"):
        fetch_archive(link, sha256="0" * 64, folder=tmp_path)
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_a_folder_that_cannot_be_written_to_is_named_before_anything_is_fetched(nobody):
    # Nobody can make a file in this folder.
    with pytest.raises(DataError, match=r"^/dev/fd: cannot be written to: "):
        fetch_archive(f"{nobody}/pets.zip", folder=Path("/dev/fd"))


@pytest.mark.parametrize("kind", ANSWERS)
def test_what_is_no_archive_is_not_kept_and_said(kind, server, tmp_path, zipped):
    link = server.link("pets.zip", ANSWERS[kind])
    said = "cut short" if kind == "a zip file" else kind.removesuffix(" once more")
    for _ in range(2):
        with pytest.raises(DataError) as error:
            fetch_archive(link, folder=tmp_path)
        assert str(error.value).startswith(f"{link}: is {said}")
    assert not [*tmp_path.iterdir()]
    server.link("pets.zip", zipped({"a.txt": b"miau"}))
    assert (fetch_archive(link, folder=tmp_path) / "a.txt").read_bytes() == b"miau"


def test_an_archive_without_pictures_names_its_address_and_what_to_remove(
    server, own_cache, zipped
):
    link = server.link("pets.zip", zipped({"a.txt": b"miau"}))
    with pytest.raises(DataError) as error:
        from_archive(link)
    assert str(error.value).startswith(f"{link}: ")
    (folder,) = (own_cache / "jaxch5" / "fetched" / "archives").iterdir()
    assert f"to fetch the archive again, remove {folder}" in str(error.value)


def test_an_archive_taken_unchecked_does_not_pass_a_checksum(server, tmp_path, zipped):
    link = server.link("pets.zip", zipped({"a.txt": b"miau"}))
    fetch_archive(link, folder=tmp_path)
    with pytest.raises(DataError, match="SHA-256"):
        fetch_archive(link, sha256="0" * 64, folder=tmp_path)


def test_a_server_that_is_not_there_is_not_taken_for_a_folder_that_cannot_be_written(tmp_path):
    """A dead server is reported as such over protocols other than HTTP, too.

    Their errors are the operating system's own, like those of a folder that cannot be written.
    """
    with pytest.raises(DataError, match=r"ftp://127\.0\.0\.1/a\.zip: no answer"):
        fetch_archive("ftp://127.0.0.1/a.zip", folder=tmp_path)


def test_an_archive_that_is_not_there_is_named(server, tmp_path):
    with pytest.raises(DataError, match=r"gone\.zip: there is no such file"):
        fetch_archive(server.link("gone.zip"), folder=tmp_path)


HARMFUL_LINKS = ["../../a.jpg", "..%2f..%2fa.jpg", "a/..;/b.jpg", "x" * 3000 + ".jpg", "a.j/../pg"]


@pytest.mark.parametrize("end", HARMFUL_LINKS)
def test_no_address_names_a_file_elsewhere(end):
    name = file_name_for(f"https://host/{end}")
    assert re.fullmatch(r"[0-9a-f]{32}(\.[A-Za-z0-9]{1,8})?", name)


@pytest.mark.parametrize("link", ["zip://a.jpg::file:///a.zip", "reference://::file:///a.json"])
def test_links_through_other_links_are_refused(link, tmp_path):
    """Addresses with `::` are refused, since they may name any of fsspec's file systems.

    Some of these render templates or start programs.
    """
    with pytest.raises(DataError, match="with :: is refused"):
        fetch_links([link], tmp_path)


def test_no_two_addresses_share_a_file():
    names = {file_name_for(f"https://host/{end}") for end in ("a.jpg", "b.jpg", "a.jpg?x=1", "a")}
    assert len(names) == 4
    assert all(len(name) < 60 and "/" not in name for name in names)


def test_an_address_that_never_answers_is_given_up(nobody):
    """An address whose server accepts a connection but never answers is soon given up.

    Some firewalls cause this. An address at which nothing listens is given up as well.
    """
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.perf_counter()
        assert not reachable(f"http://127.0.0.1:{silent.getsockname()[1]}/a.tgz")
        assert not reachable(f"{nobody}/a.tgz")
    assert time.perf_counter() - began < 10


def test_an_address_that_answers_anything_is_reachable(server):
    assert reachable(server.link("gone.tgz"))
