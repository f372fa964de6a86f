"""Answers about labels are never lost or half written, and each can be undone."""

import os

import pytest

from jaxch5.errors import CheckpointError
from jaxch5.results.answers import Answer, AnswerLog, by_picture, holding

CAT, DOG = ("/1.jpg", "cat"), ("/2.jpg", "dog")
NO_TEXT = os.fsdecode(b"/\xff\n<b>.jpg")


def test_what_is_undone_does_not_hold_and_what_was_before_does_again():
    keep, drop = Answer("keep", (CAT,)), Answer("drop", (CAT, DOG))
    assert by_picture(holding([keep, drop])) == {CAT: drop, DOG: drop}
    assert by_picture(holding([keep, drop, Answer("undo")])) == {CAT: keep}
    assert holding([Answer("undo"), keep, Answer("undo"), Answer("undo")]) == []


def test_answers_are_there_when_the_file_is_opened_again(tmp_path):
    """Answers are read back, unless they were undone.

    Paths may not be valid text, and an answer may be about several pictures.
    """
    given = [
        Answer("class", ((NO_TEXT, "cat"), DOG), "猫"),
        Answer("unsure", (CAT,)),
        Answer("undo"),
        Answer("drop", (CAT,)),
    ]
    for answer in given:
        with AnswerLog(tmp_path / "answers.jsonl") as log:
            log.add(answer)
    with AnswerLog(tmp_path / "answers.jsonl") as log:
        assert log.answers == [given[0], given[3]]
        assert log.lines == 4
        assert not log.torn


def test_a_line_that_was_not_finished_is_left_out_and_the_next_one_is_intact(tmp_path):
    """An unfinished line of a killed process is dropped: it was never confirmed as saved."""
    path = tmp_path / "answers.jsonl"
    with AnswerLog(path) as log:
        log.add(Answer("keep", (CAT,)))
    intact = path.read_bytes()
    path.write_bytes(intact + intact[:20])
    with AnswerLog(path) as log:
        assert log.torn
        log.add(Answer("drop", (DOG,)))
    with AnswerLog(path) as log:
        assert [answer.kind for answer in log.answers] == ["keep", "drop"]
    assert path.read_bytes().startswith(intact)


@pytest.mark.parametrize("line", ["{}", "[]", "no", '{"kind": "class"}', '{"kind": "sell"}'])
def test_a_damaged_line_is_named_and_the_file_stays(tmp_path, line):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"kind": "keep", "pictures": [["/1.jpg", "cat"]]}\n' + line + "\n")
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"answers.jsonl, line 2: is not an answer"):
        AnswerLog(path)
    assert path.read_bytes() == before


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_what_cannot_be_written_is_no_answer(tmp_path):
    path = tmp_path / "answers.jsonl"
    with AnswerLog(path) as log:
        log.add(Answer("keep", (CAT,)))
        full = os.open("/dev/full", os.O_WRONLY)
        file = os.dup(log._file.fileno())
        os.dup2(full, log._file.fileno())
        with pytest.raises(CheckpointError, match="cannot be written"):
            log.add(Answer("drop", (DOG,)))
        os.dup2(file, log._file.fileno())
        assert [answer.kind for answer in log.answers] == ["keep"]
    with AnswerLog(path) as log:
        assert [answer.kind for answer in log.answers] == ["keep"]
