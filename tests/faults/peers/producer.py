"""Submits tasks as an API process does, without the HTTP: commits a row, then enqueues, in threads."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from dramatiq.errors import BrokerError

from tests.faults.peers import app


def submit(actor: str, key: int, seconds: float) -> None:
    """One request: ``sent`` is where the API would answer 202, ``refused`` where it would answer 500."""
    app.sink.commit("row", key)
    try:
        app.broker.get_actor(actor).send(key, seconds)
    except BrokerError:
        app.sink.write("refused", key)
    else:
        app.sink.write("sent", key)


def connect(all_threads: Barrier) -> None:
    """As in a server that has been up for a while: each thread has its connection, the queues are there."""
    app.broker.declare_queue("default", ensure=True)
    assert app.broker.channel.is_open
    all_threads.wait()


def main(actor: str, seconds: str, first: str, last: str, threads: str, rate: str) -> None:
    count = int(threads)
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(connect, [Barrier(count)] * count))
        for key in range(int(first), int(last)):
            pool.submit(submit, actor, key, float(seconds))
            time.sleep(1 / float(rate) if float(rate) else 0)
    app.broker.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
