"""The package keeps docs/architecture.md's rules: downward imports, no cycles, small modules."""

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import jaxch5

PACKAGE = Path(jaxch5.__file__).parent
PAGE = PACKAGE.parent / "docs" / "architecture.md"
TREES = {
    ".".join(file.relative_to(PACKAGE).with_suffix("").parts): ast.parse(
        file.read_text(encoding="utf-8")
    )
    for file in sorted(PACKAGE.rglob("*.py"))
}
MODULES = {name for name in TREES if not name.endswith("__init__")}

# Layers from the top down. A name is a module's or a package's; `is_command` finds commands.
LAYERS = {
    "commands": {"__main__", "cli", "configured"},
    "learner": {"learner", "trainer"},
    "run": {
        "run",
        "results.about",
        "results.artifacts",
        "results.attribution",
        "results.elsewhere",
        "results.predictor",
    },
    "training": {"training"},
    "data": {"config.building", "data", "plots.augmentations", "results"},
    "plots": {"plots", "results.calibration"},
    "task": {"metrics", "task"},
    "settings": {"config.settings", "config.command_line"},
    "pure": {"augmentation", "losses", "models", "optim"},
    "base": {"batch", "config", "errors", "framing", "util", "view"},
}

LONGEST = 350
# Modules with a limit of their own, in lines.
LIMITS = {
    # All settings, with the text of --help: a list to look things up in.
    "config.settings": 665,
    # An architecture is one short file.
    "models.convnext": 200,
    "models.vit": 200,
}


def imported(name: str) -> set[str]:
    """Returns the package's modules that a module imports at its top, in functions or for types."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: has a relative import"
            # `from package import module` names a module, `from module import name` does not.
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
            if node.module == "jaxch5":
                # A public name stands for the module that defines it.
                found |= {jaxch5._MODULE_OF.get(alias.name, "") for alias in node.names}
    ours = {target.removeprefix("jaxch5.") for target in found if target.startswith("jaxch5.")}
    return ours & MODULES


def is_command(name: str) -> bool:
    """Returns whether a module is a command, which `python -m` can run."""
    return any(
        isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
        for node in TREES[name].body
    )


def layer(name: str) -> int:
    """Returns the number of a module's layer; commands are in layer 0."""
    if is_command(name):
        return 0
    parts = name.split(".")
    # A module may be in a different layer from the rest of its package.
    for known in (".".join(parts[:length]) for length in range(len(parts), 0, -1)):
        for number, members in enumerate(LAYERS.values()):
            if known in members:
                return number
    raise AssertionError(f"{name}: is in no layer; give it a place in LAYERS and in {PAGE.name}")


IMPORTS = {name: imported(name) for name in MODULES}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_run_downward(name):
    upward = [target for target in sorted(IMPORTS[name]) if layer(target) < layer(name)]
    assert not upward, f"{name} imports {', '.join(upward)} from a layer above its own"


def test_what_is_pure_stands_side_by_side():
    """Networks, optimizers, augmentation and losses can each be understood and used alone."""
    for name in MODULES:
        part = name.split(".")[0]
        others = LAYERS["pure"] - {part}
        if part in LAYERS["pure"]:
            assert not [target for target in IMPORTS[name] if target.split(".")[0] in others], name


def test_no_circle():
    """Imports within functions or only for types count too, as they also tie modules together."""
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_only_commands_import_the_learner():
    """The learner's parts can be used without the learner, in a notebook or in another program."""
    users = {name for name, targets in IMPORTS.items() if "learner" in targets}
    assert {name for name in IMPORTS if "trainer" in IMPORTS[name]} == {"learner"}
    assert users <= {"configured", *filter(is_command, MODULES)}


def test_nobody_imports_a_command():
    """Only commands import commands: no other module needs what prints lines or serves pages."""
    for name, targets in IMPORTS.items():
        if not is_command(name):
            assert not [target for target in targets if is_command(target)], name


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_fits_in_one_sitting(name):
    lines = len((PACKAGE / (name.replace(".", "/") + ".py")).read_text("utf-8").splitlines())
    assert lines < LIMITS.get(name, LONGEST), "the module is long; if it does two things, split it"


def test_packages_import_nothing_of_their_own_accord():
    for name in TREES.keys() - MODULES:
        assert not imported(name), f"{name} imports modules that its users may not need"


def test_importing_the_package_imports_the_standard_library_alone():
    """A command that only prints its help should not wait for jax."""
    code = (
        "import sys; before = set(sys.modules); import jaxch5; "
        "print({name.split('.')[0] for name in set(sys.modules) - before} "
        "- sys.stdlib_module_names - {'jaxch5'})"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "set()"


def test_the_page_names_every_module():
    """The page's map lists every module of the package, and none that no longer exists."""
    rows = re.findall(r"^\| `(\S+)\.py` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(name.replace(".", "/") for name in MODULES)
