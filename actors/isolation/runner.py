"""Who runs an attempt: the worker's own thread, or, where it must be alone, a child process."""

import logging
import time
from concurrent.futures import Future
from contextlib import suppress
from typing import Final

import msgspec

from actors.attempt import Attempts, GivenUp, Judged, Lost, Verdict, said_by
from actors.context import Giver, Reporter, Saver, Teller, TimedOut, kept_back, nowhere
from actors.interrupts import INTERRUPTIONS, Interrupts, Watch
from actors.isolation.children import Child, ChildDied, Children, NotStarted
from actors.isolation.wire import Begun, Item, Line, Message, Progress, Ready, Run, Save, Saved
from actors.registry import Registry
from tasks.values import Claimed

log = logging.getLogger("callboard.worker")

#: Between the interrupt that is raised inside a child when its time is up, and the end of the child.
GRACE_SECONDS: Final = 2.0
START_SECONDS: Final = 60.0
STEP_SECONDS: Final = 0.1
PAUSE_SECONDS: Final = 1.0


class Runner:
    """Runs claimed tasks; isolated ones and suspects in a process of their own."""

    def __init__(
        self,
        registry: Registry,
        attempts: Attempts,
        interrupts: Interrupts,
        children: Children,
        report: Reporter,
        save: Saver,
        *,
        tell: Teller = nowhere,
        give: Giver = kept_back,
    ) -> None:
        self._registry = registry
        self._attempts = attempts
        self._interrupts = interrupts
        self._children = children
        self._report = report
        self._save = save
        self._tell = tell
        self._give = give

    def run(self, claim: Claimed) -> Verdict:
        """Run a task to its verdict."""
        actor = self._registry.get(claim.task_type)
        if actor is not None and (actor.policy.isolated or claim.suspect):
            return self._run_alone(claim)
        return self._attempts.run(claim)

    def _run_alone(self, claim: Claimed) -> Verdict:
        with self._interrupts.watch(claim.id) as watch:
            try:
                with self._children.lend(fresh=claim.suspect) as child:
                    _begin(child, claim, watch)
                    return self._follow(child, claim, watch)
            except INTERRUPTIONS as reason:
                return self._attempts.judge(claim, reason)
            except ChildDied as death:
                return Lost(f"The process of its own that ran the task {death}")
            except NotStarted as error:
                log.warning("task %s is handed back, no process could run it: %s", claim.id, error)
                time.sleep(PAUSE_SECONDS)
                return GivenUp(hand_back=True)

    def _follow(self, child: Child, claim: Claimed, watch: Watch) -> Verdict:
        """Relay what the actor says until the verdict or an interrupt comes."""
        time_is_up = time.monotonic() + claim.timeout
        watch.deadline = time_is_up + GRACE_SECONDS
        while watch.reason is None:
            message = child.receive(STEP_SECONDS)
            if isinstance(message, Progress) and message.token == claim.token:
                self._report(claim, message.percent, message.phase, message.message, message.details)
            elif isinstance(message, Line) and message.token == claim.token:
                self._tell(claim, message.level, message.logger, message.message)
            elif isinstance(message, Item) and message.token == claim.token:
                self._give(claim, msgspec.json.decode(message.item))
            elif isinstance(message, Save) and message.token == claim.token:
                self._relay(child, claim, message)
            elif message == GivenUp(hand_back=True):  # nobody has interrupted it
                raise NotStarted(f"it does not run the type {claim.task_type}")
            elif isinstance(message, Judged):
                child.is_spent = isinstance(message, GivenUp) or time.monotonic() >= time_is_up
                return message
        raise watch.reason

    def _relay(self, child: Child, claim: Claimed, save: Save) -> None:
        """Save a checkpoint; its actor waits for the answer."""

        def answer(saved: "Future[bool]") -> None:
            error = saved.exception()
            if error is None:
                told = Saved(save.token, save.version, done=saved.result())
            else:
                code = getattr(error, "code", "actor_error")
                told = Saved(save.token, save.version, error=(code, said_by(error)))
            with suppress(ChildDied):
                child.send(told)

        self._save(claim, save.version, save.state).add_done_callback(answer)


def _begin(child: Child, claim: Claimed, watch: Watch) -> None:
    """Hand a task over. Until the child says that it has begun, nothing is the task's fault, or its time."""
    watch.deadline = time.monotonic() + START_SECONDS
    try:
        if not child.is_ready:
            _hear(child, watch, Ready)
            child.is_ready = True
        if watch.reason is not None:
            raise watch.reason
        child.send(Run.of(claim))
        _hear(child, watch, Begun)
    except TimedOut:
        raise NotStarted(f"it was not ready within {START_SECONDS:g} s") from None
    except ChildDied as death:
        raise NotStarted(f"it {death} before it had begun") from death


def _hear(child: Child, watch: Watch, kind: type[Message]) -> None:
    """Wait for a message of a kind; what a task left behind in the child may talk before."""
    while not isinstance(child.receive(STEP_SECONDS), kind):
        if watch.reason is not None:
            raise watch.reason
