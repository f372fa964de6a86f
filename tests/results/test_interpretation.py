"""`Interpretation` computes the numbers of scikit-learn and fastai, and its plots show them."""

import csv
import dataclasses
import io
import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from jaxch5.data.sources.table import from_csv
from jaxch5.errors import ConfigError, DataError
from jaxch5.metrics import METRICS
from jaxch5.results.interpretation import Interpretation

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())
SCRIPT = "<script>$x$"

seeds = st.integers(0, 2**32 - 1)


def names(count):
    return [f"c{number}" for number in range(count)]


def sure(targets, predictions, classes):
    """Returns the interpretation of a model that is certain of its predictions."""
    return Interpretation(targets, np.eye(len(classes))[predictions], classes)


def drawn(seed, items=60, classes=6, **more):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(classes, 0.4), items)
    return Interpretation(rng.integers(0, classes, items), probabilities, names(classes), **more)


def pictures(item):
    """Returns a grey picture; pictures of neighbouring items have different heights."""
    return np.full((8 + item % 3, 9, 3), 0.5)


def fits(figure):
    """Returns whether everything that is drawn lies within the figure."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    return min(box.x0, box.y0) >= -0.01 and box.x1 <= width + 0.01 and box.y1 <= height + 0.01


# Counts.


def test_counts_and_kinds_of_mistakes_are_fastais():
    """The confusion matrix and the most confused classes are fastai's.

    Pairs with equal counts are in the order of the classes; fastai does not specify their order.
    """
    interp = sure(GOLDEN["targets"], GOLDEN["predictions"], names(6))
    np.testing.assert_array_equal(interp.confusion_matrix(), GOLDEN["confusion"])
    kinds = interp.most_confused(min_val=3)
    assert sorted(kinds) == sorted(map(tuple, GOLDEN["most_confused"]))
    assert kinds == sorted(kinds, key=lambda kind: (-kind[2], kind[0], kind[1]))


@given(seeds, st.integers(1, 30), st.integers(2, 8))
def test_the_matrix_is_scikit_learns(seed, items, classes):
    """The confusion matrix, as counts and as shares, is scikit-learn's.

    With few items, some classes are empty.
    """
    interp = drawn(seed, items, classes)
    expected = (interp.targets, interp.predictions)
    matrix = interp.confusion_matrix()
    assert matrix.dtype == np.int64
    np.testing.assert_array_equal(matrix, sk.confusion_matrix(*expected, labels=range(classes)))
    shares = sk.confusion_matrix(*expected, labels=range(classes), normalize="true")
    np.testing.assert_allclose(interp.confusion_matrix(normalize=True), shares)


@given(seeds)
def test_kinds_of_mistakes_add_up_to_the_mistakes(seed):
    interp = drawn(seed)
    kinds = interp.most_confused()
    assert sum(count for *_, count in kinds) == np.sum(interp.predictions != interp.targets)
    assert interp.most_confused(min_val=0) == kinds
    assert interp.most_confused(min_val=2) == [kind for kind in kinds if kind[2] >= 2]


def test_one_wrong_of_each():
    interp = sure([0, 0, 1, 1, 2, 2], [0, 1, 1, 2, 2, 0], ["cat", "dog", SCRIPT])
    np.testing.assert_array_equal(interp.confusion_matrix(), np.eye(3) + np.eye(3)[[1, 2, 0]])
    assert interp.most_confused() == [("cat", "dog", 1), ("dog", SCRIPT, 1), (SCRIPT, "cat", 1)]


def test_of_equal_probabilities_the_first_class_is_predicted():
    interp = Interpretation([0, 1], np.full((2, 2), 0.5), ["a", "b"])
    np.testing.assert_array_equal(interp.predictions, [0, 0])


# Losses.


@given(seeds)
def test_losses_are_scikit_learns_and_sorted(seed):
    interp = drawn(seed)
    losses, items = interp.top_losses()
    expected = sk.log_loss(interp.targets, interp.probabilities, labels=range(6))
    # In place of 0, scikit-learn uses a larger number than `Interpretation` does.
    if interp.losses.max() < 30:
        assert losses.mean() == pytest.approx(expected)
    assert sorted(items) == list(range(60))
    assert (np.diff(losses) <= 0).all()
    np.testing.assert_array_equal(interp.losses[items], losses)
    smallest, _ = interp.top_losses(5, largest=False)
    np.testing.assert_array_equal(smallest, losses[::-1][:5])


def test_equal_losses_keep_the_order_of_the_items():
    interp = Interpretation([0, 1, 0, 1], np.full((4, 2), 0.5), ["a", "b"])
    for largest in (True, False):
        np.testing.assert_array_equal(interp.top_losses(largest=largest)[1], range(4))
    assert len(interp.top_losses(0)[0]) == 0
    assert len(interp.top_losses(9)[0]) == 4


def test_a_probability_of_zero_has_a_finite_loss_and_of_one_none():
    losses, items = sure([0, 1], [0, 0], ["a", "b"]).top_losses()
    np.testing.assert_array_equal(items, [1, 0])
    assert 80 < losses[0] < 100
    assert losses[1] == 0
    assert not np.signbit(losses[1])


# The report.


@settings(max_examples=30)
@given(seeds, st.integers(1, 12), st.integers(1, 8))
def test_the_report_is_scikit_learns_and_the_metrics(seed, items, classes):
    """The report has the figures of scikit-learn's report, and of `METRICS`.

    Means are over the classes that have items or are predicted, even if there is only one class.
    """
    interp = drawn(seed, items, classes)
    report = interp.classification_report()
    expected = sk.classification_report(
        interp.targets, interp.predictions, output_dict=True, zero_division=0
    )
    assert report.accuracy == pytest.approx(sk.accuracy_score(interp.targets, interp.predictions))
    for name in ("precision", "recall", "f1"):
        metric = METRICS[name](interp.probabilities, interp.targets)
        assert getattr(report.macro, name) == pytest.approx(metric)
    assert report.absent == tuple(
        name for number, name in enumerate(interp.classes) if number not in interp.targets
    )
    names = {name: str(number) for number, name in enumerate(interp.classes)}
    for line in (*report.classes, report.macro, report.weighted):
        theirs = expected.get(names.get(line.name, line.name))
        if theirs is None:
            assert (line.precision, line.recall, line.f1, line.support) == (None, None, None, 0)
            assert str(report).count(f"{line.name} ") == 1
            continue
        assert line.precision == pytest.approx(theirs["precision"])
        assert line.recall == pytest.approx(theirs["recall"])
        assert line.f1 == pytest.approx(theirs["f1-score"])
        assert line.support == theirs["support"]


def test_the_report_as_text_has_a_line_for_each_class():
    """The report's text has one line for each class, even if names are equal or have line feeds.

    A class without items has dashes in place of its figures.
    """
    report = sure([0, 1], [0, 0], ["cat", SCRIPT, "no\nitems", "no\nitems"]).classification_report()
    lines = str(report).splitlines()
    assert [line[:12].strip() for line in lines] == [
        "",
        "cat",
        SCRIPT,
        "no items",
        "no items",
        "",
        "accuracy",
        "macro avg",
        "weighted avg",
    ]
    assert lines[3].split()[2:] == [*3 * ["\N{EN DASH}"], "0"]
    assert len({len(line) for line in lines if line}) == 1
    json.dumps(dataclasses.asdict(report))


# Calibration.


@given(seeds, st.integers(1, 15))
def test_calibration_is_scikit_learns(seed, bins):
    interp = drawn(seed)
    calibration = interp.calibration(bins)
    right = interp.predictions == interp.targets
    accuracy, confidence = calibration_curve(right, interp.confidences, n_bins=bins)
    filled = calibration.count > 0
    np.testing.assert_allclose(calibration.accuracy[filled], accuracy)
    np.testing.assert_allclose(calibration.confidence[filled], confidence)
    assert np.isnan(calibration.accuracy[~filled]).all()
    assert calibration.count.sum() == 60
    weights = calibration.count[filled] / 60
    expected = np.sum(weights * np.abs(accuracy - confidence))
    assert interp.expected_calibration_error(bins) == pytest.approx(expected)


def test_a_model_that_is_right_as_often_as_it_says_has_no_error():
    """The calibration error is 0 if answers are right as often as their confidence says.

    Of the answers with a confidence of 3/4, three of four are right; of those with a confidence of
    1, all are.
    """
    probabilities = np.array([[0.75, 0.25]] * 4 + [[0.0, 1.0]])
    interp = Interpretation([0, 0, 0, 1, 1], probabilities, ["a", "b"])
    assert interp.expected_calibration_error() == 0
    assert sure([0, 0], [1, 1], ["a", "b"]).expected_calibration_error() == 1


# Labels that look wrong.


@pytest.fixture
def labelled(tmp_path):
    """Provides an interpretation of six items, of which 5, 4 and 1 look wrong, the worst first.

    The prediction for item 2 is wrong but unsure. Item 5 has a path, but no file.
    """
    references = [str(tmp_path / f"a, {number}.png") for number in range(6)]
    for reference in references[:5]:
        Image.new("RGB", (4, 4)).save(reference)
    probabilities = np.array(
        [
            [0.90, 0.05, 0.05],
            [0.95, 0.04, 0.01],
            [0.45, 0.10, 0.45],
            [0.80, 0.00, 0.20],
            [0.01, 0.98, 0.01],
            [0.00, 1.00, 0.00],
        ]
    )
    targets = [0, 1, 1, 0, 2, 0]
    return Interpretation(targets, probabilities, ["cat", 'say "dog",\r\nnow', SCRIPT], references)


def test_suspects_are_sure_mistakes_worst_first(labelled):
    assert [suspect.item for suspect in labelled.suspects()] == [5, 4, 1]
    assert [suspect.item for suspect in labelled.suspects(min_loss=4)] == [5, 4]
    assert [suspect.item for suspect in labelled.suspects(2, min_probability=0.4)] == [5, 4, 1, 2]
    _, worst, _ = labelled.suspects()
    assert worst[1:] == (SCRIPT, 'say "dog",\r\nnow', 0.98, pytest.approx(-math.log(0.01)))


def test_suspects_go_through_a_table_and_back(labelled, tmp_path, monkeypatch):
    """`from_csv` reads the table that `write_suspects` writes, from any working folder.

    The table has the current labels and absolute paths.
    """
    monkeypatch.chdir(tmp_path)
    relative = [Path(reference).name for reference in labelled.references]
    file = tmp_path / "elsewhere" / "suspects.csv"
    file.parent.mkdir()
    written = dataclasses.replace(labelled, references=relative).write_suspects(file)
    assert written == 2
    monkeypatch.chdir("/")

    source = from_csv(file)
    assert list(source.references) == [labelled.references[item] for item in (4, 1)]
    assert [source.classes[label] for label in source.labels] == [SCRIPT, 'say "dog",\r\nnow']
    assert source.read(0) == Path(labelled.references[4]).read_bytes()
    with file.open(newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    assert list(rows[0]) == ["image", "label", "prediction", "probability", "loss"]
    assert float(rows[0]["probability"]) == 0.98
    assert float(rows[0]["loss"]) == pytest.approx(4.6052)
    assert rows[1]["prediction"] == "cat"


def test_a_mended_table_trains_with_its_new_labels(labelled, tmp_path):
    file = tmp_path / "suspects.csv"
    labelled.write_suspects(file)
    file.write_bytes(file.read_bytes().replace(SCRIPT.encode(), b"mouse"))
    source = from_csv(file)
    labels = [source.classes[label] for label in source.labels]
    assert dict(zip(source.references, labels, strict=True)) == {
        labelled.references[4]: "mouse",
        labelled.references[1]: 'say "dog",\r\nnow',
    }


def test_suspects_cannot_be_written_without_paths_or_into_nowhere(labelled, tmp_path):
    with pytest.raises(ConfigError, match="references"):
        dataclasses.replace(labelled, references=None).write_suspects(tmp_path / "s.csv")
    with pytest.raises(DataError, match="cannot be written"):
        labelled.write_suspects(tmp_path / "missing" / "s.csv")


# Plots.


@pytest.mark.parametrize("classes", [1, 2, 10, 37, 200])
def test_matrices_of_all_sizes_can_be_read(classes):
    """In a matrix of any size, nothing is cut off, and no names overlap.

    The figure's sides are shorter than 16 inches.
    """
    rng = np.random.default_rng(0)
    targets = rng.integers(0, classes, 20 * classes)
    predictions = np.where(rng.random(len(targets)) < 0.9, targets, (targets + 1) % classes)
    longest = ["a_very_long_name_of_a_class", SCRIPT, "Maine_Coon", "7"]
    figure = sure(
        targets, predictions, [longest[n % 4] for n in range(classes)]
    ).plot_confusion_matrix()
    assert fits(figure)
    assert figure.get_size_inches().max() < 16
    for axis, vertical in ((figure.axes[0].xaxis, False), (figure.axes[0].yaxis, True)):
        boxes = [label.get_window_extent() for label in axis.get_ticklabels()]
        spans = [(box.y0, box.y1) if vertical else (box.x0, box.x1) for box in boxes]
        spans.sort()
        assert all(end <= begin + 1 for (_, end), (begin, _) in pairwise(spans))


def test_cells_hold_their_counts_while_they_fit():
    figure = sure([0, 0, 0, 1], [0, 0, 1, 1], ["cat", SCRIPT]).plot_confusion_matrix()
    cells = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    assert cells == {(0, 0): "2", (1, 0): "1", (1, 1): "1"}
    shares = sure([0, 0, 0, 1], [0, 0, 1, 1], ["a", "b"]).plot_confusion_matrix(normalize=True)
    assert sorted(text.get_text() for text in shares.axes[0].texts) == ["0.33", "0.67", "1.00"]
    many = sure(np.arange(200), np.arange(200), names(200)).plot_confusion_matrix()
    assert not many.axes[0].texts


def test_names_in_plots_are_plain_text():
    """Plots show class names as plain text, even if the names contain dollar signs.

    Matplotlib would take a dollar sign for the beginning of a formula, which it could not parse.
    """
    classes = [SCRIPT, "$\\frac{", "no items"]
    interp = dataclasses.replace(sure([0, 1], [1, 0], classes), pictures=pictures)
    matrix = interp.plot_confusion_matrix()
    assert [label.get_text() for label in matrix.axes[0].get_yticklabels()] == classes
    assert fits(matrix)
    assert fits(interp.plot_top_losses(2))


def test_top_losses_are_shown_with_what_fastai_says_of_each():
    probabilities = np.array([[0.9, 0.1], [0.75, 0.25]])
    interp = Interpretation([0, 1], probabilities, ["cat", SCRIPT], pictures=pictures)
    worst, other = interp.plot_top_losses(2).axes
    assert worst.get_title() == f"cat / {SCRIPT}\n1.39 / 0.75"
    assert other.get_title() == "cat / cat\n0.11 / 0.90"
    assert np.asarray(worst.images[0].get_array()).shape == pictures(1).shape
    smallest = interp.plot_top_losses(1, largest=False)
    assert [axes.get_title() for axes in smallest.axes] == ["cat / cat\n0.11 / 0.90"]


@pytest.mark.parametrize("k", [1, 5, 9, 100])
def test_top_losses_fit_their_figure(k):
    classes = ["staffordshire_bull_terrier_of_a_kind", "b"]
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(2), 9)
    interp = Interpretation(rng.integers(0, 2, 9), probabilities, classes, pictures=pictures)
    figure = interp.plot_top_losses(k)
    assert sum(bool(axes.images) for axes in figure.axes) == min(k, 9)
    assert fits(figure)


def test_top_losses_without_pictures_say_so():
    with pytest.raises(ConfigError, match="pictures"):
        drawn(0).plot_top_losses(4)
    with pytest.raises(ConfigError, match="k = 0"):
        drawn(0, pictures=pictures).plot_top_losses(0)


def test_calibration_is_drawn_where_there_are_items():
    interp = drawn(0)
    figure = interp.plot_calibration(bins=8)
    _, line = figure.axes[0].lines
    calibration = interp.calibration(8)
    filled = calibration.count > 0
    np.testing.assert_allclose(line.get_xdata(), 100 * calibration.confidence[filled])
    np.testing.assert_allclose(line.get_ydata(), 100 * calibration.accuracy[filled])
    bars = [bar.get_height() for bar in figure.axes[1].patches]
    np.testing.assert_array_equal(bars, calibration.count)
    assert fits(figure)


# Invalid input.


@pytest.mark.parametrize(
    ("targets", "probabilities", "said"),
    [
        ([0, 1, 1], np.eye(2), "3 targets"),
        ([0, 1], np.eye(3)[:2], "2 classes"),
        ([0, 1], np.array([0.5, 0.5]), "have the shape"),
        ([0, 2], np.eye(2), "run from 0 to 2"),
        ([-1, 0], np.eye(2), "run from -1"),
        ([0.0, 1.0], np.eye(2), "whole numbers"),
        ([], np.zeros((0, 2)), "targets"),
        ([[0, 1]], np.eye(2), "have the shape"),
        ([0, 1], np.array([[3.0, -2.0], [0.0, 1.0]]), "softmax"),
        ([0, 1], np.full((2, 2), np.nan), "are not finite for 2 of the items"),
    ],
)
def test_answers_that_do_not_fit_are_refused_in_one_line(targets, probabilities, said):
    with pytest.raises(ConfigError, match=said) as error:
        Interpretation(targets, probabilities, ["a", "b"])
    assert "\n" not in str(error.value)


def test_a_path_for_each_item_or_none():
    with pytest.raises(ConfigError, match="as many references as targets, 2"):
        Interpretation([0, 1], np.eye(2), ["a", "b"], references=["a.jpg"])


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="bins = 0"):
        drawn(0).calibration(bins=0)
    with pytest.raises(ConfigError, match="k = -1"):
        drawn(0).top_losses(-1)
