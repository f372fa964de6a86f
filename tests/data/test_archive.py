"""Archives: fetched, unpacked, and told apart by folder or by file name."""

import io
import tarfile
import zipfile

from PIL import Image

from jaxch5.data.archive import from_archive


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
