"""Sampling ahead of the annotators, and its end."""

from __future__ import annotations

import threading

import pytest

from llava_rlhf.collection.pairs import PairFile
from llava_rlhf.collection.sampling import filled_in_background
from tests.llava_rlhf.collection.world import line


def test_a_batch_that_is_being_sampled_is_finished_and_no_other_begun(tmp_path):
    """A model at work while Python shuts down would abort the program."""
    pairs = PairFile(tmp_path / "pairs.jsonl")
    begun, go_on, threads = threading.Event(), threading.Event(), []

    def batches():
        threads.append(threading.current_thread())
        yield [line(0)]
        begun.set()
        assert go_on.wait(60)
        yield [line(1)]
        raise AssertionError("a batch was begun after the end")

    with filled_in_background(pairs, batches(), lambda: False):
        assert begun.wait(60)
        threading.Timer(0.1, go_on.set).start()  # while the end waits
    assert pairs.rows == {0, 1} and pairs.complete
    assert not threads[0].is_alive()


def test_the_end_does_not_wait_where_there_are_enough_pairs(tmp_path):
    pairs = PairFile(tmp_path / "pairs.jsonl")
    asked = threading.Event()

    def enough():
        asked.set()
        return True

    with filled_in_background(pairs, iter([[line(0)]]), enough):
        assert asked.wait(60)
    assert pairs.rows == set() and pairs.complete


def test_a_failure_of_the_model_is_logged_and_ends_the_waiting(tmp_path, caplog):
    pairs = PairFile(tmp_path / "pairs.jsonl")

    def batches():
        yield [line(0)]
        raise RuntimeError("out of memory")

    with filled_in_background(pairs, batches(), lambda: False):
        while not pairs.complete:
            pairs.wait(1)
    assert pairs.rows == {0} and "out of memory" in caplog.text


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = threading.active_count()
    yield
    assert threading.active_count() <= before + 1  # a timer may be ending
