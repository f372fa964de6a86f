"""Advice is given only if a run's figures support it, and its commands are valid."""

import shlex
import sys

import numpy as np
import pytest

from jaxch5 import evaluate, lr_find, suspects, train
from jaxch5.cli import parse
from jaxch5.config.settings import Config
from jaxch5.results.advice import advise
from jaxch5.results.interpretation import Interpretation
from jaxch5.task import one_vs_rest

OPTIONS = {
    "train": train.TrainOptions,
    "lr_find": lr_find.LrFindOptions,
    "suspects": suspects.SuspectsOptions,
    "evaluate": evaluate.EvaluateOptions,
}
NAMES = ("ash", "<b>beech</b>", "cedar", "date")


def answers(matrix, sure=0.7, names=NAMES, **more):
    """Returns answers that have a given confusion matrix, each with the probability `sure`."""
    matrix = np.asarray(matrix)
    count = len(matrix)
    cells = [(i, j) for i in range(count) for j in range(count) for _ in range(matrix[i, j])]
    targets, given = np.array(cells).T
    rest = (1 - sure) / max(count - 1, 1)
    probabilities = np.full((len(cells), count), rest)
    probabilities[np.arange(len(cells)), given] = sure
    return Interpretation(targets, probabilities, names[:count], **more)


def even(hits, misses, count=4):
    """Returns a confusion matrix: `hits` for each class, `misses` for each pair of classes."""
    return np.full((count, count), misses) + np.diag([hits - misses] * count)


def records(valid, train=None, accuracy=None, phase="training"):
    train = train or [1.0] * len(valid)
    accuracy = accuracy or [0.5] * len(valid)
    rows = zip(valid, train, accuracy, strict=True)
    return [
        {"epoch": n, "phase": phase, "valid_loss": v, "train_loss": t, "accuracy": a}
        for n, (v, t, a) in enumerate(rows)
    ]


def config(**sections):
    return Config.model_validate(sections)


def commands(found):
    return [shlex.split(one.command)[1] if one.command else "" for one in found]


GOOD = answers(even(97, 1))


def test_nothing_is_said_of_what_is_good():
    assert advise("run", Config(), GOOD, records([0.3, 0.2, 0.2]), np.full(4, 100)) == []


@pytest.mark.parametrize(("hits", "said"), [(26, True), (60, False), (90, False)])
def test_a_network_that_knows_nothing_gets_another_rate_and_no_other_advice(hits, said):
    others = (100 - hits) // 3
    found = advise("run", Config(), answers(even(hits, others), 0.95), records([9, 8, 7, 6]))
    assert (commands(found) == ["lr_find"]) is said


def test_a_few_pictures_say_nothing_of_a_rate():
    assert advise("run", Config(), answers([[1, 1], [1, 1]])) == []


@pytest.mark.parametrize(
    ("sure", "judged", "said"),
    [
        (0.99, False, ["suspects"]),
        (0.99, True, ["clean"]),
        (0.7, False, []),
        (0.91, False, []),
    ],
)
def test_labels_that_are_surely_contradicted_are_suspects(sure, judged, said):
    """Labels are suspect if answers contradict more labels than the answers' probabilities explain.

    Of 400 answers, 12 contradict the label. With a probability of 0.91, 36 mistakes are expected;
    with 0.99, only 4.
    """
    found = advise("run", Config(), answers(even(97, 1), sure), judged=judged)
    assert commands(found) == said


@pytest.mark.parametrize(
    ("weights", "counts", "data", "said"),
    [
        ("none", 40, {"path": "photos", "size": 128, "presize": 160}, ["train"]),
        ("imagenet", 40, {"path": "photos", "size": 128, "presize": 160}, []),
        ("none", 40, {"path": "photos", "size": 32, "presize": 40}, []),
        ("none", 5000, {"path": "photos", "size": 128, "presize": 160}, []),
        ("none", 40, {}, []),
    ],
)
def test_few_photographs_are_a_reason_to_begin_from_weights(weights, counts, data, said):
    settings = config(model={"weights": weights}, data=data)
    found = advise("run", settings, answers(even(70, 10)), (), np.full(4, counts))
    assert commands(found) == said
    perfect = answers(even(90, 0))
    assert advise("run", settings, perfect, (), np.full(4, counts)) == []


@pytest.mark.parametrize(
    ("fit", "expected"),
    [
        ({"epochs": 41}, ("fine_tune", 41, 0.3, 5.0)),
        ({"epochs": 40}, ("fine_tune", 12, 0.3, 5.0)),
        ({"epochs": 40, "div": 10.0}, ("fine_tune", 12, 0.3, 10.0)),
        ({"epochs": 40, "schedule": "flat_cosine"}, ("flat_cosine", 12, 0.75, 25.0)),
    ],
)
def test_who_begins_from_weights_gets_the_schedule_that_goes_with_them(fit, expected, tmp_path):
    """The run's file has the schedule and the epochs of training from scratch."""
    from jaxch5.run.directory import create_run

    settings = config(
        data={"path": str(tmp_path), "size": 64, "presize": 80}, model={"weights": "none"}, fit=fit
    )
    run = create_run(settings, tmp_path / "run").path
    (one,) = advise(str(run), settings, answers(even(70, 10)), (), np.full(4, 50))
    new = parse(train.TrainOptions, shlex.split(one.command)[2:], "jaxch5 train").settings()
    assert new.model.weights == "imagenet"
    assert (new.fit.schedule, new.fit.epochs, new.fit.pct_start, new.fit.div) == expected
    assert (new.data, new.augment) == (settings.data, settings.augment)


@pytest.mark.parametrize(("trained", "said"), [(40, True), (1, False), (None, False)])
def test_a_class_without_pictures_for_validation_is_named(trained, said):
    """If a class has no validation pictures, the advice is to split by class.

    A class with too few pictures for both parts is not named.
    """
    matrix = even(97, 1)
    matrix[1] = 0
    counts = trained and np.array([100, trained, 100, 100])
    found = advise("run", Config(), answers(matrix), counts=counts)
    assert [one.command[-35:] for one in found] == [
        " --data.split random --data.stratify"[-35:]
    ] * said
    assert all(
        f"{answers(matrix).classes[1]} has no validation pictures" in one.sentence for one in found
    )


def test_a_loss_that_rises_while_the_other_falls_is_overfitting():
    train = [0.9, 0.7, 0.5, 0.3, 0.2, 0.1]
    (one,) = advise("run", Config(), GOOD, records([0.5, 0.4, 0.45, 0.5, 0.6, 0.7], train))
    assert "epoch 2" in one.sentence
    assert one.command.endswith("--config run/config.toml --fit.epochs 2")
    wavering = records([0.5, 0.4, 0.45, 0.41, 0.44, 0.42], train)
    of_all = records([0.5, 0.4, 0.45, 0.5, 0.6, 0.7], [0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    short = records([0.4, 0.5, 0.6], [0.3, 0.2, 0.1])
    for curve in (wavering, of_all, short):
        assert advise("run", Config(), GOOD, curve) == []


def test_the_head_alone_is_another_phase():
    head = records([0.2, 0.3, 0.4, 0.5], [0.9, 0.5, 0.3, 0.1], phase="head")
    assert advise("run", Config(), GOOD, [*head, *records([0.2, 0.15])]) == []


@pytest.mark.parametrize(
    ("accuracy", "valid", "said"),
    [
        ([0.3, 0.5, 0.6, 0.75], [1.5, 1.2, 0.9, 0.7], True),
        ([0.3, 0.5, 0.74, 0.75], [1.5, 1.2, 0.9, 0.7], False),
        ([0.3, 0.5, 0.6, 0.75], [1.5, 1.2, 0.7, 0.71], False),
    ],
)
def test_more_epochs_where_the_last_ones_still_made_it_better(accuracy, valid, said):
    settings = config(fit={"epochs": 4})
    found = advise("run", settings, GOOD, records(valid, accuracy=accuracy))
    assert [one.command[-14:] for one in found] == ["--fit.epochs 8"] * said


@pytest.mark.parametrize(
    ("counts", "rare", "settings", "said"),
    [
        ([900, 900, 900, 90], 50, {}, True),
        ([900, 900, 900, 90], 94, {}, False),
        ([900, 900, 900, 800], 50, {}, False),
        ([900, 900, 900, 90], 50, {"fit": {"class_weights": "sqrt"}}, False),
        ([900, 900, 900, 90], 50, {"data": {"sampler": "balanced"}}, False),
    ],
)
def test_rare_classes_get_weight_where_they_are_recalled_less(counts, rare, settings, said):
    matrix = even(97, 1)
    matrix[3] = [*[(100 - rare) // 3] * 3, rare]
    found = advise("run", config(**settings), answers(matrix), (), np.array(counts))
    assert [one.command[-28:] for one in found] == ["--fit.class-weights balanced"] * said


@pytest.mark.parametrize(("between", "said"), [(24, True), (8, False)])
def test_two_classes_are_named_where_they_take_more_than_their_share(between, said):
    matrix = even(80, 4)
    matrix[0, 1] += between
    found = advise("run", Config(), answers(matrix))
    assert commands(found) == ["evaluate"] * said
    if said:
        assert found[0].sentence.startswith(
            "ash and <b>beech</b> are confused with each other in 32 "
        )


def test_none_of_these_is_no_class_that_is_confused():
    task = one_vs_rest(0.5)
    unsure = Interpretation(np.arange(80) % 4, np.full((80, 4), 0.3), NAMES, task=task)
    assert commands(advise("run", Config(), unsure, records([0.3]))) == ["lr_find"]
    half = answers(even(97, 1), 0.7, task=task)
    assert advise("run", Config(), half) == []


@pytest.mark.parametrize(
    "curve",
    [
        [],
        records([0.5]),
        records([float("nan")] * 5),
        records([0.5, float("inf"), 0.4, None]),
        [{"epoch": 0, "valid_loss": 0.5, "train_loss": 0.4}] * 4,
    ],
)
def test_curves_without_numbers_or_epochs_say_nothing(curve):
    assert advise("run", Config(), GOOD, curve, np.zeros(4, int)) == []


def test_sets_of_one_class_and_of_one_picture_are_no_failure():
    for matrix in ([[5]], [[0]], [[1, 0], [0, 0]], [[0, 3], [0, 0]]):
        if np.sum(matrix):
            assert advise("run", Config(), answers(matrix), records([0.1]), np.ones(2, int)) == []


def test_at_most_five_in_the_order_of_urgency():
    matrix = np.array([[40, 55, 2, 3], [50, 45, 2, 3], [1, 1, 97, 1], [25, 25, 5, 45]])
    settings = config(data={"path": "photos", "size": 64}, model={"weights": "none"})
    curve = records([0.5, 0.4, 0.45, 0.5, 0.6, 0.7], [0.9, 0.7, 0.5, 0.3, 0.2, 0.1])
    found = advise("run", settings, answers(matrix, 0.99), curve, np.array([300, 300, 300, 20]))
    assert commands(found) == ["suspects", "train", "train", "train", "evaluate"]


def test_every_command_starts(tmp_path):
    """The command line of each piece of advice is valid, and reads the run's configuration.

    The run's path contains characters that a shell would act on if they were not quoted.
    """
    from jaxch5.run.directory import create_run

    photos = tmp_path / "photos"
    settings = config(
        data={"path": str(photos), "size": 64}, model={"weights": "none"}, fit={"epochs": 4}
    )
    run = create_run(settings, tmp_path / "a run; $(echo 'b')")
    matrix = np.array([[40, 55, 2, 3], [50, 45, 2, 3], [1, 1, 97, 1], [25, 25, 5, 45]])
    curve = records([0.5, 0.4, 0.45, 0.5, 0.6, 0.7], [0.9, 0.7, 0.5, 0.3, 0.2, 0.1])
    better = records([1.5, 1.2, 0.9, 0.7], accuracy=[0.3, 0.5, 0.6, 0.75])
    counts = np.array([300, 300, 300, 20])
    bad, lost = answers(matrix, 0.99), answers(even(25, 25))
    found = [
        *advise(str(run.path), settings, bad, curve, counts),
        *advise(str(run.path), settings, bad, better, counts),
        *advise(str(run.path), settings, lost),
    ]
    assert set(commands(found)) == set(OPTIONS)
    for one in found:
        prog, name, *words = shlex.split(one.command)
        assert prog == "jaxch5"
        parsed = parse(OPTIONS[name], words, name)
        given = parsed.settings()
        assert given.data.path == photos or str(given.data.path) == str(photos)
        assert name != "evaluate" or parsed.min_val > 1


def test_a_command_that_only_starts_does_not_wait_for_the_tests_of_statistics():
    import subprocess

    code = "import sys, jaxch5.learner; print('scipy.stats' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"
