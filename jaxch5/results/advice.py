"""Advises on what to do next, in at most five sentences that a run's figures support.

A claim that could be due to chance is made only if a statistical test is significant. Each sentence
comes with a command.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from scipy.stats import binom, binomtest, fisher_exact, kendalltau, norm, poisson

from jaxch5.config.building import epochs_for
from jaxch5.config.cases import SOURCES, chosen, value_of
from jaxch5.config.section import own_default
from jaxch5.config.settings import Config
from jaxch5.config.toml import flat
from jaxch5.data.sampler import IMBALANCE
from jaxch5.errors import ConfigError
from jaxch5.metrics import is_number
from jaxch5.models.registry import spec_of
from jaxch5.results.interpretation import Interpretation
from jaxch5.util.imports import is_import_path
from jaxch5.util.limits import MANY
from jaxch5.util.text import counted, percent

MOST = 5
# Significance level of a claim; if several claims are tested, it is divided by their number.
LEVEL = 0.01
# Significance level for trends over a few epochs: four values cannot give a p-value below 0.04.
TREND = 0.05
# An answer counts as sure if its probability is at least this high.
SURE = 0.9
# ImageNet has 1,281 pictures per class; a set with fewer pictures per class benefits from
# ImageNet's weights.
FEW = 1281
# Smallest side that pictures must have for ImageNet's weights to be useful, in pixels.
LEAST_SIDE = 64


class Advice(NamedTuple):
    """Holds a finding, and a command that acts on it.

    Attributes:
        sentence: The finding.
        command: Command line, to be run from the folder that the run was started from.
    """

    sentence: str
    command: str


def advise(
    run: str,
    config: Config,
    interp: Interpretation,
    records: Sequence[Mapping[str, Any]] = (),
    counts: Int[np.ndarray, "classes"] | None = None,
    judged: bool = False,
) -> list[Advice]:
    """Returns what to do next, the most urgent first.

    Args:
        run: Path of the run.
        config: Configuration of the run, which the commands read from `run`.
        interp: Answers of the run's classifier for the validation pictures.
        records: Record of each epoch; without records the length of training is not judged.
        counts: Number of training pictures of each class; None leaves out the advice that depends
            on these numbers.
        judged: Whether `jaxch5 suspects` has already judged the run's labels.

    Example:
        >>> guesses = Interpretation([0, 1] * 50, [[0.6, 0.4]] * 100, ["cat", "dog"])
        >>> (advice,) = advise("runs/one", Config(), guesses)
        >>> advice.sentence.partition(":")[0]
        '50.0 % of 100 pictures are classified correctly, and always saying cat would give 50.0 %'
        >>> advice.command
        'jaxch5 lr_find --config runs/one/config.toml'
    """
    if nothing := list(_knows_nothing(run, interp)):
        return nothing
    rules = (
        _wrong_labels(run, interp, judged),
        _never_validated(run, interp, counts),
        _from_scratch(run, config, interp, counts),
        _length(run, config, interp, records),
        _rare_classes(run, config, interp, counts),
        _confused(run, interp),
    )
    return list(chain(*rules))[:MOST]


def in_lines(advice: Sequence[Advice]) -> list[str]:
    """Returns the lines for a terminal: each sentence, with its command below it."""
    return [line for one in advice for line in (one.sentence, f"  {one.command}")]


def _command(name: str, *words: str) -> str:
    return shlex.join(["jaxch5", name, *words])


def _like(run: str, command: str, *words: str) -> str:
    return _command(command, "--config", f"{run}/config.toml", *words)


def _knows_nothing(run: str, interp: Interpretation) -> Iterator[Advice]:
    """Warns if the network is far from perfect, and hardly better than a constant answer."""
    there = np.bincount(interp.targets, minlength=len(interp.classes))
    total, right, usual = len(interp), _right(interp), int(there.max(initial=0))
    if usual == total:
        return
    chance = usual / total
    test = binomtest(right, total, chance, alternative="greater")
    # Few pictures prove nothing: the accuracy has to be significantly nearer to chance than to 1.
    if test.pvalue > LEVEL and _interval(right, total)[1] < (1 + chance) / 2:
        pictures = counted(total, "picture is", "pictures are")
        yield Advice(
            f"{percent(right / total)} of {pictures} classified correctly, and always saying "
            f"{interp.classes[int(there.argmax())]} would give {percent(chance)}: "
            "the learning rate may be wrong",
            _like(run, "lr_find"),
        )


def _wrong_labels(run: str, interp: Interpretation, judged: bool) -> Iterator[Advice]:
    """Compares the number of confidently contradicted labels with the number expected."""
    sure = interp.confidences >= SURE
    against = sure & (interp.predictions != interp.targets)
    expected = float((1 - np.minimum(interp.confidences, 1))[sure].sum())
    count = int(against.sum())
    if count and poisson.sf(count - 1, expected) < LEVEL:
        pictures = counted(count, "validation picture is", "validation pictures are")
        yield Advice(
            f"{pictures} confidently predicted as another class, but only "
            f"{expected:.1f} would be expected: labels may be wrong",
            _command("clean" if judged else "suspects", run),
        )


def _never_validated(
    run: str, interp: Interpretation, counts: Int[np.ndarray, "classes"] | None
) -> Iterator[Advice]:
    """Reports classes without validation pictures if a split by class would give them some."""
    there = np.bincount(interp.targets, minlength=len(interp.classes))
    if counts is None or there.all() or (there + counts).min() < 2:
        return
    first, *others = np.flatnonzero(there == 0).tolist()
    more = f" (like {counted(len(others), 'other class', 'other classes')})" if others else ""
    yield Advice(
        f"{interp.classes[first]}{more} has no validation pictures, and so no score: a split "
        "by class would hold some out",
        _like(run, "train", "--data.split", "random", "--data.stratify"),
    )


def _from_scratch(
    run: str, config: Config, interp: Interpretation, counts: Int[np.ndarray, "classes"] | None
) -> Iterator[Advice]:
    """Recommends ImageNet's weights if training began from random weights on few pictures."""
    theirs = any(getattr(config.data, name) is not None for name in SOURCES)
    if counts is None or config.model.weights != "none" or not theirs:
        return
    try:
        has_weights = bool(spec_of(config.model.arch).weights)
    except ConfigError:
        return
    mistakes = len(interp) - _right(interp)
    small = min(np.ravel(config.data.size)) < LEAST_SIDE
    if has_weights and mistakes and not small and (mean := counts.mean()) < FEW:
        yield Advice(
            f"Training began from random weights, with {mean:,.0f} training pictures per class: "
            "starting from ImageNet's weights is likely better",
            _like(run, "train", *_from_weights(config, int(counts.sum()))),
        )


def _from_weights(config: Config, pictures: int) -> Iterator[str]:
    """Yields options to begin from ImageNet's weights, with the defaults that go with them.

    The run's file has values for all settings, including the defaults of training from scratch, so
    the options replace these.
    """
    values = flat(config)
    new = chosen(values, own_default) | {"model.weights": "imagenet"}
    if config.fit.epochs == epochs_for(pictures, from_scratch=True):
        new["fit.epochs"] = epochs_for(pictures, from_scratch=False)
    for key, old in values.items():
        if (value := value_of(key, new, own_default)) != old:
            yield from (f"--{key.replace('_', '-')}", str(value))


def _length(
    run: str, config: Config, interp: Interpretation, records: Sequence[Mapping[str, Any]]
) -> Iterator[Advice]:
    """Judges whether the last phase of training was too long or too short."""
    # Only the last phase counts: an earlier one trained other layers.
    phase = [record for record in records if record.get("phase") == records[-1].get("phase")]
    valid, train = ([record[name] for record in phase] for name in ("valid_loss", "train_loss"))
    if config.fit.sizes or not all(map(is_number, (*valid, *train))) or len(phase) < 3:
        return
    best = int(np.argmin(valid))
    if _trend(valid[best:]) and _trend([-loss for loss in train[best:]]):
        yield Advice(
            f"Since epoch {phase[best]['epoch'] + 1} the validation loss has risen "
            f"({valid[best]:.4f} to {valid[-1]:.4f}) while the training loss has fallen: the "
            "network is overfitting",
            _like(run, "train", "--fit.epochs", str(best + 1)),
        )
    before = phase[-1 - max(1, len(phase) // 3)]
    was, now = before.get("accuracy"), phase[-1].get("accuracy")
    longer = 2 * (config.fit.epochs or len(phase))
    if best < len(phase) - 1 or longer > MANY or not (is_number(was) and is_number(now)):
        return
    deviation = np.sqrt((was * (1 - was) + now * (1 - now)) / len(interp))
    if now - was > norm.isf(LEVEL) * deviation:
        yield Advice(
            f"Since epoch {before['epoch'] + 1} the accuracy has risen by {100 * (now - was):.1f} "
            "percentage points, and the validation loss was still falling: more epochs may help",
            _like(run, "train", "--fit.epochs", str(longer)),
        )


def _rare_classes(
    run: str, config: Config, interp: Interpretation, counts: Int[np.ndarray, "classes"] | None
) -> Iterator[Advice]:
    """Compares the recall of classes that are rarer than average with that of the others."""
    weighted = config.fit.class_weights != "none" or config.data.sampler != "shuffled"
    if counts is None or weighted or is_import_path(config.fit.loss):
        return
    if counts.max() < IMBALANCE * max(counts.min(), 1):
        return
    rare = (counts < counts.mean())[interp.targets]
    right = interp.predictions == interp.targets
    table = [[int((right & part).sum()), int((~right & part).sum())] for part in (rare, ~rare)]
    if fisher_exact(table, alternative="less").pvalue < LEVEL:
        of_rare, of_others = (hits / (hits + misses) for hits, misses in table)
        yield Advice(
            f"{percent(of_rare)} of the pictures of rare classes are classified correctly, but "
            f"{percent(of_others)} of the others: rare classes could be given more weight",
            _like(run, "train", "--fit.class-weights", "balanced"),
        )


def _confused(run: str, interp: Interpretation) -> Iterator[Advice]:
    """Finds the two classes whose confusion with each other is least likely to be due to chance."""
    count = len(interp.classes)
    if count < 3:
        return
    wrong = interp.confusion_matrix()[:count, :count].copy()
    np.fill_diagonal(wrong, 0)
    of_class = wrong.sum(axis=1)
    one, other = np.triu_indices(count, 1)
    between, mistakes = (wrong + wrong.T)[one, other], of_class[one] + of_class[other]
    chances = binom.sf(between - 1, mistakes, 1 / (count - 1))
    least = int(np.argmin(chances))
    if chances[least] * len(chances) < LEVEL:
        names = [interp.classes[place[least]] for place in (one, other)]
        both, expected = int(between[least]), mistakes[least] / (count - 1)
        yield Advice(
            f"{names[0]} and {names[1]} are confused with each other in {both:,} of "
            f"{mistakes[least]:,} mistakes on pictures of either class; chance would give "
            f"{expected:.1f}",
            _command("evaluate", run, "--min-val", str(max(1, both // 2))),
        )


def _right(interp: Interpretation) -> int:
    return int((interp.predictions == interp.targets).sum())


def _interval(hits: int, total: int) -> tuple[float, float]:
    interval = binomtest(hits, total).proportion_ci(1 - 2 * LEVEL)
    return interval.low, interval.high


def _trend(values: Sequence[float]) -> bool:
    """Tests with Kendall's rank correlation whether values rise."""
    test = (
        kendalltau(range(len(values)), values, alternative="greater") if len(values) > 3 else None
    )
    return test is not None and bool(test.pvalue < TREND)
