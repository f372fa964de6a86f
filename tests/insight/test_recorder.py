"""The recorder draws what it was given, also of a run that was taken up; one rule says the best."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jaxch5.insight.recorder import Recorder, best_of, is_number, rank


def test_losses_are_drawn_where_their_epochs_ended():
    """Two epochs of four were trained in this process, of ten steps each."""
    records = [{"valid_loss": value} for value in (0.9, 0.8, 0.7, 0.6)]
    recorder = Recorder(records, losses=list(range(20)), ends=[10, 20])
    training, validation = recorder.plot_loss(skip_start=5).axes[0].lines
    np.testing.assert_array_equal(training.get_xdata(), range(5, 20))
    np.testing.assert_array_equal(validation.get_xdata(), [10, 20])
    np.testing.assert_array_equal(validation.get_ydata(), [0.7, 0.6])


def test_each_group_has_its_own_curve():
    recorder = Recorder(losses=[1.0, 1.0], lrs=[[0.1, 0.2], [0.3, 0.4]], moms=[0.9, 0.8])
    rates, momentum = recorder.plot_sched().axes
    assert [line.get_ydata().tolist() for line in rates.lines] == [[0.1, 0.3], [0.2, 0.4]]
    assert [line.get_ydata().tolist() for line in momentum.lines] == [[0.9, 0.8]]


NUMBERS = st.sampled_from([0.5, 0.9, 1.0, math.nan, None])
RECORDS = st.lists(st.fixed_dictionaries({"accuracy": NUMBERS, "valid_loss": NUMBERS}), max_size=8)


@given(RECORDS)
def test_no_record_beats_the_best(records):
    """More accurate, or as accurate at a lower loss, or the same and later: none is."""
    best = best_of(records)
    known = [record for record in records if is_number(record["accuracy"])]
    assert (best is None) == (not known)
    if best is None:
        return
    chosen = records[best]
    assert chosen["accuracy"] == max(record["accuracy"] for record in known)
    equals = [record for record in known if record["accuracy"] == chosen["accuracy"]]
    losses = [record["valid_loss"] for record in equals if is_number(record["valid_loss"])]
    assert not losses or chosen["valid_loss"] == min(losses)
    assert rank(chosen) not in map(rank, records[best + 1 :])


@given(RECORDS)
def test_the_best_so_far_of_each_epoch_leads_to_the_best_of_all(records):
    """Whoever keeps one at a time, as memory does, or the greatest rank, as checkpoints do."""
    kept = None
    for record in records:
        before = [] if kept is None else [kept]
        if best_of([*before, record]) == len(before):
            kept = record
    best = best_of(records)
    assert kept is (None if best is None else records[best])
    if best is not None:
        assert sorted(records, key=rank)[-1] is records[best]
