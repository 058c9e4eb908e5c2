"""The faults of the soak: each is a context that breaks something and mends it, for some random time."""

import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

import psutil
from pika.exceptions import AMQPError

from tests.faults.postgres import Postgres
from tests.faults.rabbit import Rabbit
from tests.support.processes import channel_to
from tests.support.proxy import Proxy

Trouble = AbstractContextManager[None]


class Troubles:
    """Makes trouble at random. ``victims`` gives the processes that may be killed and frozen now."""

    def __init__(
        self,
        chance: random.Random,
        rabbit: Rabbit,
        postgres: Postgres,
        proxies: dict[str, Proxy],
        victims: Callable[[], list[tuple[str, psutil.Process]]],
    ) -> None:
        self._chance = chance
        self._rabbit = rabbit
        self._postgres = postgres
        self._proxies = proxies
        self._victims = victims
        self._kinds: list[tuple[int, Callable[[], Trouble]]] = [
            (6, self.kill),
            (3, self.freeze),
            (2, self.ask_to_end),
            (4, self.cut),
            (3, self.swallow),
            (3, self.delay),
            (2, self.turn_away),
            (2, self.kill_rabbitmq),
            (2, self.kill_postgres),
            (2, self.fill_memory),
            (1, self.delete_queue),
        ]

    def next(self) -> tuple[str, Trouble]:
        """A random trouble and its name."""
        weights, kinds = zip(*self._kinds, strict=True)
        [made] = self._chance.choices(kinds, weights)
        return made.__name__, made()

    @contextmanager
    def kill(self) -> Iterator[None]:
        """SIGKILL one of our processes; its supervisor starts another one."""
        self._signal(signal.SIGKILL)
        self._wait(0, 3)
        yield

    @contextmanager
    def ask_to_end(self) -> Iterator[None]:
        """SIGTERM one of our processes."""
        self._signal(signal.SIGTERM)
        self._wait(0, 3)
        yield

    @contextmanager
    def freeze(self) -> Iterator[None]:
        """SIGSTOP one of our processes for longer or shorter than its lease."""
        victim = self._signal(signal.SIGSTOP)
        yield
        self._wait(1, 25)
        with suppress(psutil.NoSuchProcess):
            if victim is not None:
                victim.send_signal(signal.SIGCONT)

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Reset all connections to one of the servers, some times."""
        proxy = self._proxy()
        for _ in range(self._chance.randint(1, 4)):
            proxy.cut()
            self._wait(0, 1)
        yield

    @contextmanager
    def swallow(self) -> Iterator[None]:
        """Keep the connections to one of the servers, and forward nothing."""
        proxy = self._proxy()
        proxy.freeze()
        yield
        self._wait(1, 15)
        proxy.thaw()

    @contextmanager
    def delay(self) -> Iterator[None]:
        """A slow network to one of the servers."""
        proxy = self._proxy()
        proxy.delay = self._chance.uniform(0.001, 0.03)
        yield
        self._wait(2, 10)
        proxy.delay = 0.0

    @contextmanager
    def turn_away(self) -> Iterator[None]:
        """Refuse every connection to one of the servers."""
        proxy = self._proxy()
        proxy.shut()
        yield
        self._wait(1, 8)
        proxy.open()

    @contextmanager
    def kill_rabbitmq(self) -> Iterator[None]:
        """SIGKILL RabbitMQ, and start it on its data."""
        self._rabbit.kill()
        yield
        self._wait(0, 5)
        self._rabbit.heal()

    @contextmanager
    def kill_postgres(self) -> Iterator[None]:
        """SIGKILL Postgres, and start it on its data."""
        self._postgres.kill()
        yield
        self._wait(0, 5)
        self._postgres.heal()

    @contextmanager
    def fill_memory(self) -> Iterator[None]:
        """RabbitMQ's memory alarm."""
        with suppress(RuntimeError):  # another trouble has killed it
            self._rabbit.raise_alarm()
        yield
        self._wait(3, 12)
        self._rabbit.heal()

    @contextmanager
    def delete_queue(self) -> Iterator[None]:
        """Delete the queue with all of its messages."""
        with suppress(AMQPError), channel_to(self._rabbit.url) as channel:
            channel.queue_delete("default")
        yield

    def _proxy(self) -> Proxy:
        return self._proxies[self._chance.choice(sorted(self._proxies))]

    def _signal(self, number: int) -> psutil.Process | None:
        victims = self._victims()
        if not victims:
            return None
        victim = self._chance.choice(victims)[1]
        with suppress(psutil.NoSuchProcess):
            victim.send_signal(number)
        return victim

    def _wait(self, least: float, most: float) -> None:
        time.sleep(self._chance.uniform(least, most))
