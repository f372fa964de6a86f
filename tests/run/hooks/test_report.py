"""The report shows what the learner has done, both while it trains and at the end."""

import io
import re
from dataclasses import replace

import numpy as np
from rich.console import Console

from jaxch5.config.settings import Config
from jaxch5.data.block import DataBlock
from jaxch5.results.report import write_report
from jaxch5.run.attempts import Attempts
from jaxch5.run.directory import create_run
from jaxch5.run.hooks import report as module
from jaxch5.task import SOFTMAX
from jaxch5.training.events import Begin, End, Epoch


def test_a_report_grows_with_every_epoch_and_ends_with_the_mistakes(trained, tmp_path, monkeypatch):
    _, learn = trained
    learn = learn.again(0)
    learn.console = Console(file=io.StringIO())
    learn.run = create_run(Config(), tmp_path / "<run>")
    rows = []

    def note(path, report):
        write_report(path, report)
        page = learn.run.report_file.read_text()
        rows.append((len(report.records), report.finished, "Confusion matrix" in page))

    monkeypatch.setattr(module, "write_report", note)
    learn.fit_one_cycle(2)
    assert rows == [(1, False, False), (2, False, False), (2, True, True)]
    page = learn.run.report_file.read_text()
    assert "&lt;run&gt;" in page
    assert "<run>" not in page
    matrix = learn.interpret().confusion_matrix()
    assert np.trace(matrix) == round(8 * learn.records[-1]["accuracy"])
    # The eight largest losses, each with a map of where the network looked.
    assert len(re.findall("data:image", page)) >= 1 + 2 * 8
    assert 'id="looks"' in page
    for name in learn.groups.names:
        assert name in page


def test_pictures_in_other_processes_files_are_only_named(trained):
    """Of two processes that read different files, the first one shows what is in its own."""
    _, learn = trained
    source, read = learn.data.source, []

    def reading(item):
        read.append(item)
        return source.read(item)

    parts = learn.data.train.items, learn.data.valid.items
    block = DataBlock(replace(source, sharded=True, read=reading), lambda _: parts, 36, 32)
    data = block.load(batch_size=8).shared(lambda array: array, (0, 2), 2)
    examples, _ = module._examples(data, learn.interpret(), list("abcdefgh"))
    assert {*read} == {*data.valid.items[data.valid.own].tolist()}
    tiles = [one.tile for cell in examples.values() for one in cell]
    assert sorted(tile for tile in tiles if tile is not None) == [0, 1, 2, 3]
    assert None in tiles


def test_a_report_of_a_run_that_was_interrupted_says_how_to_go_on(trained, tmp_path):
    _, learn = trained
    run = create_run(Config(), tmp_path / "a run")
    hook = module.write_reports(run, learn.data, learn.records, Attempts(print), SOFTMAX)
    hook(Begin(0, 4, (), learn.groups.names, learn.data.classes, "", run.path))
    hook(Epoch(4, None, [], learn.records[-1]))
    assert 'http-equiv="refresh"' in run.report_file.read_text()
    hook(End(4, None, "interrupted"))
    page = run.report_file.read_text()
    assert 'http-equiv="refresh"' not in page
    assert "Training was interrupted after epoch 1." in page
    assert f"jaxch5 train --resume &#39;{run.path}&#39;" in page
