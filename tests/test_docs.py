"""The names, arguments, links and examples in the documentation's pages are real."""

import ast
import doctest
import inspect
import io
import re
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import pytest
from rich.console import Console

import jaxch5 as jx
from jaxch5.util.fastai import INSTEAD

DOCS = Path(jx.__file__).parent.parent / "docs"
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *(f"docs/{page.name}" for page in sorted(DOCS.glob("*.md"))),
]


class Tiny(nn.Module):
    """A network that takes almost no time to run; a learner cannot be made without a network."""

    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(10)(x.mean((1, 2)))


@pytest.fixture(scope="module")
def objects():
    """The objects that the pages call `jx`, `pets`, `data`, `learn` and `interp`."""
    pets = jx.DataBlock(jx.digits(), jx.random_split(), presize=8, size=8)
    data = pets.load(batch_size=64)
    learn = jx.vision_learner(data, Tiny(), "none")
    learn.lr_find(num_it=30)
    names = {"pets": pets, "data": data, "learn": learn, "interp": learn.interpret()}
    return SimpleNamespace(jx=jx, **names)


def expressions(cell: str) -> list[ast.AST]:
    """Returns the syntax trees of those code spans in a table's cell that are valid Python."""
    found: list[ast.AST] = []
    for code in re.findall(r"`([^`]+)`", cell):
        try:
            found.append(ast.parse(code))
        except SyntaxError:
            continue
    return found


def code_of_ours() -> list[ast.AST]:
    """Returns the code in docs/from_fastai.md that is ours.

    This is the example for jaxch5, and every column of the tables except fastai's.
    """
    page = (DOCS / "from_fastai.md").read_text(encoding="utf-8")
    found = [ast.parse(code) for code in re.findall(r"```python\n# jaxch5\n(.*?)```", page, re.S)]
    assert len(found) == 1
    for line in page.splitlines():
        if line.startswith("| "):
            _, *ours = line.strip("| ").split(" | ")
            found += expressions(" ".join(ours))
    return found


def reached(node: ast.AST, objects):
    """Returns what a dotted name stands for, or None if it does not begin with one of `objects`."""
    if isinstance(node, ast.Name):
        return getattr(objects, node.id, None)
    if isinstance(node, ast.Attribute):
        owner = reached(node.value, objects)
        return None if owner is None else getattr(owner, node.attr)
    return None


def used(code: list[ast.AST], objects) -> set[str]:
    """Returns the dotted names of ours that some code uses.

    Raises an error if a name does not exist or if a call does not fit the signature of what it
    calls.
    """
    seen = set()
    for tree in code:
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and reached(node, objects) is not None:
                seen.add(ast.unparse(node))
            if isinstance(node, ast.Call) and (called := reached(node.func, objects)):
                keywords = {word.arg: None for word in node.keywords}
                inspect.signature(called).bind_partial(*node.args, **keywords)
    return seen


def test_what_stands_for_fastais_calls_is_there_and_takes_these_arguments(objects):
    """In our column, each name exists, and each call fits the signature of what it calls."""
    assert len(used(code_of_ours(), objects)) > 60


# The page, like fastai's users, calls fastai's objects by these names; the values name ours.
THEIRS = {"learn": "learn", "dls": "data", "dblock": "pets", "interp": "interp"}
# Names of other libraries or of Python, and names for the reader's own files and arrays.
NOT_FASTAIS = {"torch", "nn", "F", "safetensors", "slice", "path", "url", "files", "x", "y"}
NOT_FASTAIS |= set(INSTEAD["DataBlock"])  # names of arguments


def test_each_of_fastais_names_on_the_page_says_what_it_is_here(objects):
    """Looking up one of fastai's names raises an error that says what it is called here.

    Each name is looked up on our object or package; names that exist here too are left out.
    """
    page = (DOCS / "from_fastai.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n# fastai\n(.*?)```", page, re.S)
    rows = [line.strip("| ").split(" | ")[0] for line in page.splitlines() if line[:2] == "| "]
    asked = set()
    for tree in [ast.parse(example), *expressions(" ".join(rows))]:
        made = {
            node.id for node in ast.walk(tree) if isinstance(getattr(node, "ctx", 0), ast.Store)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if ours := THEIRS.get(node.value.id):
                    asked.add((ours, node.attr))
            elif isinstance(node, ast.Name) and node.id not in {*made, *THEIRS, *NOT_FASTAIS}:
                asked.add(("jx", node.id))
    for owner, name in asked:
        owned = getattr(objects, owner)
        if not hasattr(owned, name):
            with pytest.raises(AttributeError) as told:
                getattr(owned, name)
            assert f"{name}: this is fastai's name; here it is " in str(told.value)
    assert len(asked) > 80


def test_what_stands_for_fastais_names_is_there(objects):
    told = [said for names in INSTEAD.values() for said in names.values()]
    code = [ast.parse(said) for said in told if not said.startswith("left out")]
    assert len(used(code, objects)) > 40
    assert not hasattr(objects.data, "vocab")
    assert not hasattr(jx, "get_image_files")
    with pytest.raises(AttributeError, match=r"^Learner.dls: .* here it is learn.data$"):
        _ = objects.learn.dls
    with pytest.raises(AttributeError, match=r"^'Data' object has no attribute 'nonsense'$"):
        _ = objects.data.nonsense
    for name in INSTEAD["jaxch5"]:
        assert name not in jx.__all__


def test_what_a_cell_ends_with_is_short(objects):
    """Each object's `repr` is short, because a notebook shows the value of a cell's last line."""
    pets, data, learn, interp = objects.pets, objects.data, objects.learn, objects.interp
    others = learn.predictor(), learn.predict(data.source.read(0)), learn.recorder
    for value in (pets, data, learn, interp, data.source, pets.split, *others):
        shown = repr(value)
        assert len(shown.splitlines()) <= 3
        assert len(shown) < 260
        assert " at 0x" not in shown
        assert "array" not in shown
    assert repr(pets.split) == "random_split(valid_fraction=0.2, seed=42, stratify=False)"
    assert repr(learn).startswith("<Tiny; 0 epochs, 0 steps\n 1,797 pictures of 10 classes")


def test_the_readmes_lines_name_what_there_is(objects):
    """The README's code, which people copy first, uses names and arguments that exist."""
    page = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    code = [ast.parse(code) for code in re.findall(r"```python\n(.*?)```", page, re.S)]
    assert {"jx.vision_learner", "learn.fine_tune", "data.show_batch"} <= used(code, objects)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_between_pages_lead_somewhere(page):
    """Each link leads to a file that exists and, if it has an anchor, to a heading in that file.

    The site's generator checks the links too, but only those in docs/.
    """
    text = (DOCS.parent / page).read_text(encoding="utf-8")
    for link in re.findall(
        r"\]\(([^)\s]+)\)", re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)
    ):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (DOCS.parent / page).parent / name if name else DOCS.parent / page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.M)
            slugs = {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in headings}
            assert anchor in slugs, link


def test_a_name_that_is_gone_is_found(objects):
    (tree,) = expressions("`learn.fit_two_cycles(3)`")
    with pytest.raises(AttributeError, match="fit_two_cycles"):
        reached(tree.body[0].value.func, objects)


@pytest.mark.parametrize(("name", "most"), [("questions.md", 50), ("own_network.md", 12)])
def test_the_answers_hold(name, most, tmp_path, monkeypatch):
    """The examples of these pages, run in order, print the output that is shown under them."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    page = DOCS / name
    # Fences would be taken for output. They are replaced by blank lines to keep the line numbers.
    lines = re.sub(r"^```.*$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    test = doctest.DocTestParser().get_doctest(lines, {}, page.name, str(page), 0)
    assert len(test.examples) > most
    report: list[str] = []
    failed, _ = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append)
    assert not failed, "".join(report)


class Tracker:
    """Stands in for a tracking library: records the calls that it receives.

    It has only those functions of `wandb` and `mlflow` that the page calls, with the same
    arguments, so that any other call fails.
    """

    def __init__(self):
        self.told = []

    def init(self, project, config):
        self.told.append(("begin", project))

    def log(self, figures, step):
        self.told.append((step, dict(figures)))

    def finish(self, exit_code):
        self.told.append(("end", exit_code))

    def start_run(self):
        self.told.append(("begin", None))

    def log_metric(self, key, value, step):
        self.told.append((step, {key: value}))

    def log_metrics(self, metrics, step):
        assert all(isinstance(value, (int, float)) for value in metrics.values())
        self.told.append((step, dict(metrics)))

    def end_run(self, status):
        self.told.append(("end", status))


@pytest.mark.parametrize(
    ("name", "end"), [("wandb", 0), ("mlflow", "FINISHED"), (None, None)], ids=str
)
def test_hooks_of_the_page_tell_what_was_trained(name, end, monkeypatch, capsys):
    """The hooks on the page, run unchanged, report the losses and scores of a training run."""
    tracker = Tracker()
    for library in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, library, tracker)
    names: dict[str, Any] = {}
    page = (DOCS / "hooks.md").read_text(encoding="utf-8")
    codes = re.findall(r"```python\n(.*?)```", page, re.S)
    for code in codes:
        exec(code, names)
        assert len(code.splitlines()) <= 16
    data = jx.DataBlock(jx.digits(), jx.random_split(), presize=8, size=8).load(batch_size=256)
    learn = jx.vision_learner(data, Tiny(), hooks=[names[f"to_{name}" if name else "tell"]])
    learn.console = Console(file=io.StringIO())
    learn.fit(2, 1e-3)
    length = len(data.train)
    if not name:
        lines = capsys.readouterr().out.splitlines()
        assert lines == [
            f"{length * (n + 1)} steps: {learn.records[n]['valid_loss']:.3f}" for n in (0, 1)
        ]
        return
    begin, *told, last = tracker.told
    assert (begin[0], last) == ("begin", ("end", end))
    losses = [figures["loss"] for _, figures in told if "loss" in figures]
    assert losses == learn.recorder.losses
    scores = [(step, figures["accuracy"]) for step, figures in told if "accuracy" in figures]
    assert scores == [(length * (n + 1), learn.records[n]["accuracy"]) for n in (0, 1)]


def test_a_step_in_ones_own_script_trains(capsys):
    """The script on the page trains with at most four imports and only public names of jaxch5."""
    page = (DOCS / "own_script.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import)]
    assert "from " not in code
    assert len(imports) <= 4
    assert set(re.findall(r"\bjx\.(\w+)", code)) <= set(jx.__all__)
    names = {}
    exec(code, names)
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", capsys.readouterr().out)]
    assert len(losses) == 2
    assert losses[1] < losses[0] < 2.5
    assert int(names["state"].step) == 2 * len(names["data"].train)
