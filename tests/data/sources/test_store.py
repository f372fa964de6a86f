"""Tests folders given by addresses: on a local S3 server, and on endpoints that do not answer."""

import socket
import time

import pytest

import jaxch5.data.sources.store as module
from jaxch5.data.packing import pack
from jaxch5.data.sources.folder import from_folder
from jaxch5.data.sources.packed import INDEX, from_packed
from jaxch5.data.sources.store import Store
from jaxch5.errors import DataError


@pytest.fixture(scope="module")
def s3():
    """Provides the endpoint of an S3 server on loopback, without any buckets at first."""
    pytest.importorskip("s3fs")
    server_of = pytest.importorskip("moto.server").ThreadedMotoServer
    server = server_of(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def account(monkeypatch):
    """Sets credentials that any endpoint accepts, and provides monkeypatch for other settings.

    File systems that were cached with other credentials are dropped.
    """
    import s3fs

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    yield monkeypatch
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def bucket(s3, account, own_cache):
    """Provides the address of a bucket on the S3 server."""
    import s3fs

    account.setenv("AWS_ENDPOINT_URL", s3)
    filesystem = s3fs.S3FileSystem()
    if not filesystem.exists("bucket"):
        filesystem.mkdir("bucket")
    return "s3://bucket"


def test_a_set_is_packed_to_s3_and_read_from_there(bucket, pictures, tmp_path, own_cache):
    place = f"{bucket}/sets/colours/"
    for out in (place, tmp_path / "local"):
        pack(from_folder(pictures), out, 24, shard_size=15)
    here, there = from_packed(tmp_path / "local"), from_packed(place)
    assert list(there.references) == list(here.references)
    assert [there.read(item) for item in range(40)] == [here.read(item) for item in range(40)]

    # The cache holds all shards now. Packing and reading again must not fetch any of them.
    kept = {file: file.stat().st_mtime_ns for file in own_cache.rglob("*.array_record")}
    assert len(kept) == 3
    pack(from_folder(pictures), place, 24, shard_size=15)
    from_packed(place).read(0)
    assert {file: file.stat().st_mtime_ns for file in kept} == kept


def test_only_the_shards_that_are_read_are_fetched(bucket, pictures, own_cache):
    pack(from_folder(pictures), f"{bucket}/few", 24, shard_size=15)
    share = from_packed(f"{bucket}/few", slice(2, 3))
    assert not list(own_cache.rglob("*.array_record"))
    share.read(0)
    assert len(list(own_cache.rglob("*.array_record"))) == 1


def test_another_shard_under_the_same_name_is_refused(bucket, pictures, own_cache):
    pack(from_folder(pictures), f"{bucket}/spoilt", 24)
    name = "pictures-00000-of-00001.array_record"
    Store(f"{bucket}/spoilt").write(name, b"something else")
    with pytest.raises(DataError, match=f"{name}: is not the file that was packed"):
        from_packed(f"{bucket}/spoilt").read(0)
    assert not list(own_cache.rglob("*.array_record"))


def one_line(ask, match, seconds):
    begin = time.perf_counter()
    with pytest.raises(DataError, match=match) as error:
        ask()
    assert "\n" not in str(error.value)
    assert time.perf_counter() - begin < seconds


def test_a_bucket_or_folder_that_is_not_there_is_one_line(bucket, pictures):
    one_line(lambda: from_packed("s3://nowhere/set"), "s3://nowhere/set: .*bucket does not ex", 5)
    one_line(lambda: from_packed(f"{bucket}/nothing"), f"nothing: .*no {INDEX}", 5)
    source = from_folder(pictures)
    one_line(lambda: pack(source, "s3://nowhere/set", 24), "s3://nowhere/set.*: .*bucket", 5)


def test_an_endpoint_that_is_not_there_is_one_quick_line(account, s3):
    account.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    one_line(lambda: from_packed("s3://bucket/set"), "s3://bucket/set: Could not connect", 5)


def test_an_endpoint_that_does_not_answer_is_not_waited_for(account, s3):
    account.setattr(module, "ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        account.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        one_line(lambda: from_packed("s3://bucket/set"), "no answer within 0.5 seconds", 5)


def test_no_such_kind_of_address_is_one_line():
    one_line(lambda: Store("nonsense://bucket").read("x"), "nonsense://bucket: .*nonsense", 5)


def test_a_file_is_never_there_in_part(tmp_path):
    store = Store(tmp_path)
    store.write("file", b"old")

    def interrupted():
        with store.making("file") as file:
            file.write_bytes(b"half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert store.read("file") == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
