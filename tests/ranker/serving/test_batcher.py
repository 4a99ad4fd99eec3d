"""The batcher alone, with a model that takes as long as it is told."""

import asyncio
import threading
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest

from ranker.serving.batcher import FIXED, Batcher, Busy
from ranker.serving.encode import Unknown
from ranker.serving.model import Model, Scores
from ranker.serving.requests import Requests


@dataclass
class Gate:
    """A model whose score of a candidate is its id; it scores when it is let through, and fails for a negative id."""

    version: str = "1"
    open: threading.Event = field(default_factory=threading.Event)
    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    seen: list[int] = field(default_factory=list)

    def score(self, requests: Requests) -> Scores:
        self.seen.append(len(requests))
        self.entered.release()
        assert self.open.wait(20)
        if (requests.item < 0).any():
            raise ValueError("negative")
        zeros = np.zeros(len(requests), np.int64)
        return Scores(requests.item / 10, Unknown(zeros > 0, zeros, zeros, {"image": zeros + 2}), {"image": 7})


def request(*items: int) -> Requests:
    one = np.ones(1, np.int64)
    return Requests(one, one, one * len(items), one * 0, np.array(items, np.int64), {}, {})


def batcher(**settings: Any) -> Batcher:
    return Batcher(**{"workers": 1, "delay": 0.0, "longest_wait": 100.0, "batch": 1000} | settings)


async def entered(gate: Gate) -> None:
    await asyncio.to_thread(gate.entered.acquire)


def asked(own: Batcher, model: Any, *requests: Requests) -> list[asyncio.Task]:
    return [asyncio.create_task(own.score(cast(Model, model), r)) for r in requests]


def run(test: Any) -> None:
    asyncio.run(asyncio.wait_for(test, 30))


def test_what_waits_is_scored_together_and_each_gets_its_own():
    async def test():
        own, gate = batcher(), Gate()
        first = asked(own, gate, request(1))
        await entered(gate)
        rest = asked(own, gate, request(2, 3), request(4), request(5, 6, 7))
        await asyncio.sleep(0)
        assert own.waiting == 3
        gate.open.set()
        answers = await asyncio.gather(*first, *rest)
        own.close()
        assert gate.seen == [1, 3] and (own.batches, own.batched) == (2, 4)
        scores = [[round(float(x) * 10) for x in a.score] for a in answers]
        assert scores == [[1], [2, 3], [4], [5, 6, 7]] and answers[3].score.dtype == np.float32
        assert answers[1].missing == {"image": 2} and answers[1].vectors == {"image": 7}

    run(test())


def test_a_batch_ends_at_its_size_and_at_another_model_and_is_a_worker_s_share():
    async def test():
        own, gate, other = batcher(batch=2 * FIXED + 5), Gate(), Gate("2")
        first = asked(own, gate, request(1))
        await entered(gate)
        rest = asked(own, gate, request(1), request(2), request(3), request(4))
        swapped = asked(own, other, request(5))
        await asyncio.sleep(0)
        gate.open.set()
        other.open.set()
        answers = await asyncio.gather(*first, *rest, *swapped)
        assert gate.seen == [1, 2, 2] and other.seen == [1]
        assert [a.version for a in answers] == ["1"] * 5 + ["2"]
        own.close()

    run(test())


def test_a_batch_is_counted_as_if_all_its_requests_were_its_largest():
    async def test():
        own, gate = batcher(batch=4 * FIXED), Gate()
        first = asked(own, gate, request(1))
        await entered(gate)
        rest = asked(own, gate, *[request(1)] * 3, request(*range(2 * FIXED)), request(1))
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(*first, *rest)
        assert gate.seen == [1, 3, 1, 1]
        own.close()

    run(test())


def test_one_slow_batch_does_not_have_the_next_requests_refused():
    async def test():
        own, gate = batcher(longest_wait=0.04), Gate()  # of 800 units at the first guess
        first = asked(own, gate, request(1))
        await entered(gate)
        await asyncio.sleep(0.5)  # 0.5 s for 51 units: two hundred times the guess
        gate.open.set()
        await asyncio.gather(*first)
        assert len(await asyncio.gather(*asked(own, gate, *[request(1)] * 14))) == 14  # 714 units at once
        own.close()

    run(test())


def test_every_worker_is_warm_before_its_first_request():
    warm: list[int] = []
    own = batcher(workers=3, warm=lambda: warm.append(threading.get_ident()))
    own.close()
    assert len(set(warm)) == len(warm) == 3


def test_two_workers_share_what_waits():
    async def test():
        own, gate = batcher(workers=2), Gate()
        first = asked(own, gate, request(1), request(1))
        await entered(gate)
        await entered(gate)
        rest = asked(own, gate, *[request(2)] * 8)
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(*first, *rest)
        assert gate.seen[2] == 4
        own.close()

    run(test())


def test_one_bad_request_harms_no_other_and_a_worker_survives_it():
    async def test():
        own, gate = batcher(), Gate()
        first = asked(own, gate, request(1))
        await entered(gate)
        rest = asked(own, gate, request(2), request(-1), request(3))
        await asyncio.sleep(0)
        gate.open.set()
        answers = await asyncio.gather(*first, *rest, return_exceptions=True)
        assert isinstance(answers[2], ValueError) and [len(a.score) for a in (answers[1], answers[3])] == [1, 1]
        assert len((await asked(own, gate, request(9))[0]).score) == 1
        own.close()

    run(test())


def test_a_client_that_went_away_costs_nothing():
    async def test():
        own, gate = batcher(), Gate()
        first = asked(own, gate, request(1))
        await entered(gate)
        gone, stays = asked(own, gate, request(2), request(3))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(*first, stays)
        own.close()
        assert gate.seen == [1, 1] and own.batched == 2

    run(test())


def test_more_work_than_fits_the_wait_is_refused_until_it_is_done():
    async def test():
        own, gate = batcher(longest_wait=0.01), Gate()  # 200 units of work at the first guess of 50 us each
        first = asked(own, gate, request(*range(100)))
        await entered(gate)
        second, third = asked(own, gate, request(*range(100)), request(1))
        with pytest.raises(Busy, match="busy: 11 ms of work before this request") as error:
            await third
        assert error.value.retry_after == 1
        gate.open.set()
        await asyncio.gather(*first, second)
        own.close()

    run(test())


def test_a_request_waits_for_company_no_longer_than_told():
    async def test():
        own, gate = batcher(delay=0.2), Gate()
        gate.open.set()
        start = asyncio.get_running_loop().time()
        await asyncio.gather(*asked(own, gate, request(1), request(2)))
        took = asyncio.get_running_loop().time() - start
        assert gate.seen == [2] and took >= 0.19
        own.close()

    run(test())


def test_closing_answers_what_waits_and_takes_nothing_more():
    async def test():
        own, gate = batcher(), Gate()
        jobs = asked(own, gate, request(1), request(2))
        await entered(gate)
        closing = asyncio.create_task(asyncio.to_thread(own.close))
        await asyncio.sleep(0.05)
        with pytest.raises(Busy):
            await own.score(cast(Model, gate), request(3))
        gate.open.set()
        assert [len(a.score) for a in await asyncio.gather(*jobs)] == [1, 1]
        await closing

    run(test())
