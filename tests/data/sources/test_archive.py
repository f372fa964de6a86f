"""Archives are fetched and unpacked, and folders or file names in them tell the classes."""

import hashlib
import io
import itertools
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from jaxch5.config.building import load_source
from jaxch5.config.settings import DataConfig
from jaxch5.data.sources.archive import from_archive
from jaxch5.data.split import given_split
from jaxch5.errors import DataError


def png():
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    return file.getvalue()


def test_class_folders_inside_others_are_found(server, own_cache):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for part in ("train", "val"):
            for name in ("cat", "dog"):
                member = tarfile.TarInfo(f"nette/set/{part}/{name}/1.png")
                member.size = len(png())
                archive.addfile(member, io.BytesIO(png()))
    source = from_archive(server.link("nette.tgz", content.getvalue()))
    assert source.classes == ("cat", "dog")
    assert set(source.columns["folder"]) == {"train", "val"}


def test_file_names_tell_the_class(server, own_cache):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in ("Birman_1.png", "Birman_2.png", "great_dane_1.png"):
            archive.writestr(f"images/{name}", png())
    source = from_archive(server.link("pets.zip", content.getvalue()), pattern=r"(.+)_\d+\.png")
    assert source.classes == ("Birman", "great_dane")
    assert source.read(2) == png()


FORMS = {"zip": "zip", "tar": "tar", "tar.gz": "gztar", "tgz": "gztar", "tar.xz": "xztar"}


@pytest.fixture
def set_of(tmp_path):
    """A function that packs class folders into an archive of a given form, and returns its path."""

    def make(form, around="photos/", parts=("train/", "valid/")):
        root = tmp_path / "content"
        for part, name in itertools.product(parts, ("cat", "dog")):
            file = root / around / part / name / "1.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png())
        (root / "__MACOSX").mkdir()
        (root / "__MACOSX" / "._1.png").write_bytes(png())
        (root / "README").write_text("about it")
        made = shutil.make_archive(tmp_path / "set", FORMS[form], root)
        return Path(made).rename(tmp_path / f"photos.{form}")

    return make


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("around", ["", "photos/", "a/b/"])
def test_a_local_archive_is_taken_like_a_folder(own_cache, set_of, form, around):
    """Every file in a local archive is read or listed as passed over, as in a folder.

    The name of the archive does not matter.
    """
    archive = set_of(form, around)
    renamed = archive.with_name("without ending")
    shutil.copy(archive, renamed)
    for file in (archive, renamed):
        source = load_source(DataConfig(path=file))
        assert source.classes == ("cat", "dog")
        assert [len(part) for part in given_split()(source)] == [2, 2]
        back = "../" * around.count("/")
        listed = sorted(path for paths in source.passed_over.values() for path in paths)
        assert listed == [f"{back}README", f"{back}__MACOSX/._1.png"]


def test_settings_for_folders_are_heard(own_cache, set_of):
    archive = set_of("zip", "", ("one/", "two/"))
    source = load_source(DataConfig(path=archive, train="one", valid="two"))
    assert [len(part) for part in given_split()(source)] == [2, 2]
    assert load_source(DataConfig(path=archive, train=".")).classes == ("one", "two")
    with pytest.raises(DataError, match=r"--data\.train"):
        load_source(DataConfig(path=archive, train="gone"))


def test_it_is_unpacked_once_and_again_when_its_content_is_another(own_cache, set_of, tmp_path):
    """An archive is unpacked again only if its content has changed.

    A change is noticed even if the archive's name, modification time and size stay the same.
    """
    archive = set_of("tar", "", ("",))
    source = load_source(DataConfig(path=archive))
    kept = source.file(0)
    before = os.stat(kept)
    assert os.stat(load_source(DataConfig(path=archive)).file(0)).st_ino == before.st_ino
    times = os.stat(archive)
    with tarfile.open(archive, "w") as members:
        for name in ("cow", "dog"):
            members.add(tmp_path / "content" / "dog", name)
    os.utime(archive, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert load_source(DataConfig(path=archive)).classes == ("cow", "dog")


def test_a_checksum_is_of_the_content(own_cache, set_of):
    archive = set_of("zip")
    good = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert len(from_archive(archive, good)) == len(from_archive(archive, good.upper())) == 4
    with pytest.raises(DataError, match="SHA-256"):
        from_archive(archive, "0" * 64)


@pytest.mark.parametrize("form", FORMS)
def test_a_damaged_one_is_one_line_and_leaves_nothing(own_cache, set_of, form):
    archive = set_of(form)
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    with pytest.raises(DataError) as caught:
        load_source(DataConfig(path=archive))
    assert str(archive) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(own_cache.rglob("*.png"))


def test_what_is_no_archive_is_named(own_cache, tmp_path):
    file = tmp_path / "notes"
    file.write_text("some text")
    with pytest.raises(DataError, match="is a file"):
        load_source(DataConfig(path=file))
