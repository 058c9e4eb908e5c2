"""Outcomes: verbs that are committed on another thread reach those who wait for them on the event loop."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from api.outcomes import Outcomes
from tasks.errors import Conflict


def in_a_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_every_outcome_of_a_group_arrives_and_the_loop_is_woken_once() -> None:
    async def wait() -> tuple[list[int], int]:
        loop = asyncio.get_running_loop()
        outcomes, verbs = Outcomes(), [Future[int]() for _ in range(100)]
        answers = [outcomes.of(verb) for verb in verbs]
        calls = 0
        wake = loop.call_soon_threadsafe

        def counted(*what: object) -> object:
            nonlocal calls
            calls += 1
            return wake(*what)  # type: ignore[arg-type]

        loop.call_soon_threadsafe = counted  # type: ignore[method-assign, assignment]

        def commit() -> None:
            for number, verb in enumerate(verbs):
                verb.set_result(number)

        in_a_thread(commit)
        return await asyncio.gather(*answers), calls

    found, calls = asyncio.run(wait())

    assert found == list(range(100))
    assert calls == 1


def test_what_arrives_after_the_loop_has_looked_is_brought_over_too() -> None:
    async def wait() -> list[int]:
        outcomes, found = Outcomes(), []
        for number in range(3):
            verb: Future[int] = Future()
            answer = outcomes.of(verb)
            in_a_thread(lambda verb=verb, number=number: verb.set_result(number))  # type: ignore[misc]
            found.append(await answer)
        return found

    assert asyncio.run(wait()) == [0, 1, 2]


def test_a_refused_verb_raises_where_it_is_waited_for() -> None:
    async def wait() -> None:
        verb: Future[int] = Future()
        answer = Outcomes().of(verb)
        in_a_thread(lambda: verb.set_exception(Conflict("no")))
        await answer

    with pytest.raises(Conflict):
        asyncio.run(wait())


def test_who_stops_waiting_harms_neither_the_verb_nor_the_others_of_its_group() -> None:
    async def wait() -> tuple[int, int]:
        outcomes, gone, there = Outcomes(), Future[int](), Future[int]()
        left, answer = outcomes.of(gone), outcomes.of(there)
        left.cancel()
        in_a_thread(lambda: gone.set_result(1))
        in_a_thread(lambda: there.set_result(2))
        return await answer, gone.result()

    assert asyncio.run(wait()) == (2, 1)


def test_an_outcome_after_the_end_of_the_loop_harms_nobody() -> None:
    verb: Future[int] = Future()

    async def ask() -> None:
        Outcomes().of(verb).cancel()

    asyncio.run(ask())
    verb.set_result(1)
