"""The object that an import path names is found, or a one-line error says why it cannot be."""

import pytest

from jaxch5.errors import ConfigError
from jaxch5.util.imports import is_import_path, load_function, load_object


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder from which modules can be imported."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_part").mkdir()
    (tmp_path / "own_part" / "__init__.py").touch()
    (tmp_path / "own_part" / "losses.py").write_text("SPEC = 3\ndef my_loss(): return 5\n")
    (tmp_path / "own_broken.py").write_text("1 / 0\n")
    (tmp_path / "own_needy.py").write_text("import no_such_library_at_all\n")
    (tmp_path / "own_wrong.py").write_text("def (:\n")
    return tmp_path


def test_an_object_of_a_package_is_found():
    assert load_object("own_part.losses:SPEC", "model.arch") == 3
    assert load_function("own_part.losses:my_loss", "fit.loss")() == 5


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("focal", "should be an import path, as in package.module:name"),
        ("own_part.losses:", "should be an import path"),
        ("no_such_module:x", "there is no module no_such_module; install it"),
        ("own_part.nothing:x", r"there is no module own_part\.nothing; "),
        ("own_part.losses:myloss", r"own_part\.losses has no myloss; did you mean my_loss\?"),
        ("own_broken:x", "importing own_broken fails: ZeroDivisionError: division by zero"),
        ("own_needy:x", "importing own_needy fails: ModuleNotFoundError: .*no_such_library_at_all"),
        ("own_wrong:x", "importing own_wrong fails: SyntaxError"),
        ("own_part.losses:SPEC", "is of type int, which cannot be called; name a function"),
    ],
)
def test_what_cannot_be_had_is_one_line(path, line):
    with pytest.raises(ConfigError, match=line) as caught:
        load_function(path, "fit.loss")
    assert str(caught.value).startswith(f"fit.loss = {path}: ")
    assert "\n" not in str(caught.value)


def test_names_of_ours_and_files_are_no_import_paths():
    for text in ("focal", "top_5", "C:/weights.pth", "a b:c", ":x", "x:", "..:x", "3.x:y"):
        assert not is_import_path(text)
