"""Dynamic batching by itself: who waits with whom, who is let in, and what one bad row does to its neighbours."""

from __future__ import annotations

import asyncio
import threading

import pytest

from llava_rlhf.reward_service.batching import Batcher
from llava_rlhf.reward_service.refusals import RefusedError


class Recorder:
    """Scores a number by its square; remembers every forward."""

    def __init__(self, bad=None):
        self.batches, self.bad = [], bad

    def __call__(self, items):
        self.batches.append(list(items))
        if self.bad in items:
            raise FloatingPointError(f"{self.bad} has no square here")
        return [{"score": item * item} for item in items]


def run(score, requests, batch_size=4, wait=0.05, max_rows=100, **more):
    """What each request got, scores or an exception, all sent at once."""

    async def everything():
        batcher = Batcher(score, batch_size, wait, max_rows, **more)
        worker = asyncio.create_task(batcher.work())
        replies = await asyncio.gather(*map(batcher.scores, requests), return_exceptions=True)
        worker.cancel()
        batcher.close()
        return [
            reply if isinstance(reply, Exception) else [row["score"] for row in reply] for reply in replies
        ]

    return asyncio.run(everything())


def test_rows_of_several_requests_go_through_one_forward():
    score = Recorder()
    assert run(score, [[1, 2], [3], [4, 5, 6]]) == [[1, 4], [9], [16, 25, 36]]
    assert score.batches == [[1, 2, 3, 4], [5, 6]]


def test_a_bad_row_takes_no_neighbour_with_it():
    score = Recorder(bad=3)
    one, other = run(score, [[1, 2], [3]])
    assert one == [1, 4] and isinstance(other, FloatingPointError)
    assert score.batches == [[1, 2, 3], [1], [2], [3]]


def test_a_row_of_several_pictures_fills_a_forward_as_so_many_rows():
    score = Recorder()
    assert run(score, [[1, 2], [3], [9, 1, 1, 1]], room=lambda item: item) == [[1, 4], [9], [81, 1, 1, 1]]
    assert score.batches == [[1, 2], [3], [9], [1, 1, 1]]  # 9 is more than a forward takes, and goes alone


def test_a_full_forward_does_not_wait():
    score = Recorder()
    assert asyncio.run(asyncio.wait_for(asyncio.to_thread(run, score, [[1, 2]], 2, 60), 10)) == [[1, 4]]


def test_rows_of_a_request_that_was_given_up_are_not_scored():
    async def everything():
        going, score = threading.Event(), Recorder()

        def slow(items):
            going.wait(10)
            return score(items)

        batcher = Batcher(slow, 1, 0, 100)
        worker = asyncio.create_task(batcher.work())
        first = asyncio.create_task(batcher.scores([1]))
        given_up = asyncio.create_task(batcher.scores([2]))
        last = asyncio.create_task(batcher.scores([3]))
        await asyncio.sleep(0.05)
        given_up.cancel()
        await asyncio.sleep(0)
        going.set()
        replies = [await first, await last]
        worker.cancel()
        batcher.close()
        return replies, score.batches

    replies, batches = asyncio.run(everything())
    assert replies == [[{"score": 1}], [{"score": 9}]] and batches == [[1], [3]]


def test_only_so_many_rows_are_let_in():
    batcher = Batcher(Recorder(), 4, 0, 10)
    with batcher.admission(8):
        with pytest.raises(RefusedError, match="8 of 10 rows are at work") as refused, batcher.admission(3):
            pass
        assert refused.value.status == 429
        with batcher.admission(2):
            assert batcher.admitted == 10
    assert batcher.admitted == 0
    batcher.close()
