"""An installation from a wheel is complete without the repository around it."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import jaxch5

ROOT = Path(jaxch5.__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with everything that the wheel puts into site-packages, and nothing else."""
    pytest.importorskip("hatchling", reason="needs the extra test")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_a_wheel_holds_the_package_whole(installed):
    """The wheel has every module and the files beside them, such as a template, but no tests."""

    def files(root):
        found = (file.relative_to(root) for file in root.rglob("*") if file.is_file())
        return {file for file in found if file.suffix != ".pyc"}

    package = files(installed / "jaxch5")
    configs = {Path("configs", file) for file in files(ROOT / "configs")}
    assert package == files(ROOT / "jaxch5") | configs
    tops = {path.name.partition("-")[0] for path in installed.iterdir()}
    assert tops == {"jaxch5"}


def test_a_configuration_is_found_by_its_name_in_an_empty_folder(installed, tmp_path):
    printed = "from jaxch5.train import TrainOptions; from jaxch5.cli import parse; import jaxch5\n"
    printed += "import json, sys; settings = parse(TrainOptions, sys.argv[1:], '').settings()\n"
    printed += "print(json.dumps([jaxch5.__file__, settings.data.tfds]))"
    ended = subprocess.run(
        [sys.executable, "-c", printed, "--config", "pets_resnet50"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    file, tfds = json.loads(ended.stdout)
    assert Path(file).is_relative_to(installed)
    assert tfds == "oxford_iiit_pet"
