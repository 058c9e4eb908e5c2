"""Threads of a worker that died are replaced: nothing that they had is lost, even if none can be started."""

from typing import Any

import pytest
from dramatiq import Message
from dramatiq.broker import MessageProxy
from dramatiq.brokers.stub import StubBroker

from actors.threads import Crew, CrewThread


class Counter:
    """A consumer that remembers what was given back to it."""

    def __init__(self) -> None:
        self.given_back: list[MessageProxy] = []

    def post_process_message(self, message: MessageProxy) -> None:
        self.given_back.append(message)

    def is_alive(self) -> bool:
        return True


def test_what_a_dead_thread_had_in_hand_is_given_back_once_also_when_no_thread_can_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given a thread that died with a message in hand, on a machine that has no room for another one
    crew: Any = Crew(StubBroker(middleware=[]), worker_threads=1, worker_timeout=50)
    consumer = crew.consumers["default"] = Counter()
    dead = CrewThread(
        broker=crew.broker, consumers=crew.consumers, work_queue=crew.work_queue, worker_timeout=50
    )
    message: Message[Any] = Message("default", "work", (), {}, {})
    dead.in_hand = MessageProxy(message)
    crew.workers.append(dead)

    def refuse(self: CrewThread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as no_room:
        no_room.setattr(CrewThread, "start", refuse)
        for _ in range(2):
            with pytest.raises(RuntimeError):
                crew.replace_the_dead()
    # Then the message is given back all the same
    assert [one.message_id for one in consumer.given_back] == [message.message_id]
    # And the thread is replaced once there is room
    crew.replace_the_dead()
    assert [thread.is_alive() for thread in crew.workers] == [True]
    assert len(consumer.given_back) == 1
    for thread in crew.workers:
        thread.stop()
        thread.join(5)
