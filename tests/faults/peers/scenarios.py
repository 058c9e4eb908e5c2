"""The faults 1-8, each played on plain dramatiq: a function plays one of them and returns the account."""

import os
import signal
import time
from collections.abc import Callable

from tests.faults.peers.trial import Account, Trial
from tests.support.proxy import proxy_to

TASKS = 200


def killed_producer(trial: Trial) -> Account:
    """1. The process that commits and then enqueues is killed up to 25 times in 1,000 submissions."""
    total, kills = 1000, 25
    marks = sorted(trial.random.sample(range(10, total - 10), kills))
    trial.start_workers(processes=2)
    killed = 0
    for mark in [*marks, total]:
        rows = trial.count("row")
        if rows < mark:
            producer = trial.start_producer(total, first=rows, seconds=0.0, threads=8, rate=800)
            trial.wait_until(lambda at=mark: trial.count("row") >= at, 15)
            if mark < total:
                time.sleep(trial.random.uniform(0, 0.002))
                producer.kill()
                killed += 1
            producer.wait()
    trial.wait_until(lambda: trial.count("end") >= trial.count("row"), 8)
    return trial.account(f"{killed} kills of the producer", accepted="row")


def stale_acknowledgement(trial: Trial) -> Account:
    """2. The connections of one worker are cut in mid-task; seconds later the worker is killed."""
    with proxy_to(trial.node.url) as proxy:
        victim = trial.start_workers(url=proxy.url, threads=8)
        trial.start_workers(threads=8)
        trial.wait_for_workers(2)
        trial.start_producer(TASKS, seconds=1.0)
        trial.wait_until(lambda: trial.count("start") >= 16 and trial.count("sent") >= 60, 10)
        proxy.cut()
        cut_at = time.monotonic()

        def goes_on() -> bool:
            starts = trial.sink.entries("start")
            return any(start.at > cut_at + 4 and victim.include(start.pid) for start in starts)

        # It connects again after 3 s. A thread that could not acknowledge tries again after 5 s, and goes on.
        trial.wait_until(goes_on, 10)
        time.sleep(trial.random.uniform(0, 0.8))
        victim.kill()
        seconds = time.monotonic() - cut_at
        trial.settle(quiet=5, timeout=30)
    return trial.account(f"killed {seconds:.1f} s after the cut")


def refused_retry(trial: Trial) -> Account:
    """3. All tasks fail once while the queue of their retries is full and refuses messages."""
    trial.submit(TASKS, actor="fail_once", seconds=0.02)
    full = '{"max-length": 0, "overflow": "reject-publish"}'
    trial.node.control("set_policy", "full", r"\.DQ$", full, "--apply-to", "queues")
    trial.start_workers(processes=2)
    trial.wait_until(lambda: trial.count("fail") >= TASKS, 20)
    trial.node.control("clear_policy", "full")
    trial.settle(quiet=6, timeout=20)
    return trial.account()


def retry_in_alarm(trial: Trial) -> Account:
    """3. All tasks fail once in a memory alarm that ends with the kill of the broker, and its restart."""
    trial.submit(TASKS, actor="fail_once", seconds=0.02)
    trial.node.raise_alarm()
    trial.start_workers(processes=2)
    trial.wait_until(lambda: trial.count("fail") >= TASKS, 10)
    time.sleep(5)
    failed = trial.count("fail")
    trial.node.kill()
    trial.node.start()
    trial.settle(quiet=8, timeout=25)
    return trial.account(f"{failed} had failed before the kill")


def submissions_in_alarm(trial: Trial) -> Account:
    """4. Memory alarm for 30 s while tasks are submitted."""
    trial.start_workers(processes=2)
    producer = trial.start_producer(TASKS, threads=8, rate=20)
    trial.wait_until(lambda: trial.count("sent") > 20, 10)
    trial.node.raise_alarm()
    time.sleep(30)
    trial.node.clear_alarm()
    producer.wait(20)
    trial.settle(quiet=5, timeout=15)
    return trial.account(f"longest enqueue {longest_enqueue(trial):.1f} s")


def longest_enqueue(trial: Trial) -> float:
    rows = {entry.key: entry.at for entry in trial.sink.entries("row")}
    return max(entry.at - rows[entry.key] for entry in trial.sink.entries("sent", "refused"))


def alarm_then_kill(trial: Trial) -> Account:
    """4. As before, but at the end of the alarm the broker is killed, as one that is short of memory is."""
    trial.start_workers(processes=2)
    trial.submit(20)
    trial.node.raise_alarm()
    producer = trial.start_producer(TASKS, first=20, threads=8, rate=40)
    trial.wait_until(lambda: producer.poll() is not None, 8)
    trial.node.kill()
    trial.node.start()
    producer.wait(20)
    trial.settle(quiet=8, timeout=20)
    return trial.account(f"{trial.count('refused')} refused")


def killed_worker(trial: Trial) -> Account:
    """5. One of two worker processes is killed; each of them has four tasks of 10 s besides short ones."""
    workers = trial.start_workers(processes=2, threads=6)
    trial.wait_for_workers(2)
    trial.submit(8, seconds=10.0)
    trial.wait_until(lambda: trial.count("start") >= 8, 10)
    trial.submit(TASKS, first=8, seconds=0.1)
    trial.wait_until(lambda: trial.count("end") > 20, 10)
    pids = sorted({entry.pid for entry in trial.sink.entries("start")})
    killed_at = time.monotonic()
    os.kill(trial.random.choice(pids), signal.SIGKILL)
    gone = trial.wait_until(lambda: workers.have_ended, 20)
    trial.start_workers(processes=2, threads=6)  # as systemd would

    def restored() -> bool:
        entries = trial.sink.entries("start")
        return len({entry.pid for entry in entries if entry.pid not in pids}) == 2

    trial.wait_until(restored, 15)
    seconds = time.monotonic() - killed_at
    trial.settle(quiet=12, timeout=25)
    return trial.account(f"the whole group ended: {gone}; two workers again after {seconds:.1f} s")


def stopped_worker(trial: Trial) -> Account:
    """6. A worker is stopped for 30 s, is given up (heartbeat 5 s), and goes on after the takeover."""
    return stopped_for_30_seconds(trial, trial.node.url + "?heartbeat=5")


def stopped_unnoticed(trial: Trial) -> Account:
    """6. The same with the heartbeat that RabbitMQ proposes (60 s): nobody takes over meanwhile."""
    return stopped_for_30_seconds(trial, trial.node.url)


def stopped_for_30_seconds(trial: Trial, url: str) -> Account:
    trial.start_workers(url=url)
    trial.start_workers(url=url)
    trial.wait_for_workers(2)
    trial.submit(TASKS, seconds=0.8)
    trial.wait_until(lambda: trial.count("end") > 20, 20)
    victim = trial.random.choice(sorted({entry.pid for entry in trial.sink.entries("start")}))
    os.kill(victim, signal.SIGSTOP)
    time.sleep(30)
    os.kill(victim, signal.SIGCONT)
    trial.settle(quiet=6, timeout=20)
    ends = [entry.key for entry in trial.sink.entries("end")]
    return trial.account(f"{len(ends) - len(set(ends))} results written twice")


def deadly_task(trial: Trial) -> Account:
    """7. A task kills its worker (8 threads) among 50 neighbours; the command is restarted, for 45 s."""
    place = trial.random.randint(5, 40)
    trial.submit(place, seconds=0.5)
    trial.submit(1000, first=999, actor="kill", seconds=0.2)
    trial.submit(50, first=place, seconds=0.5)
    deadline, groups = time.monotonic() + 45, 0
    while time.monotonic() < deadline and trial.count("end") < 50:
        workers = trial.start_workers(threads=8)
        groups += 1
        trial.wait_until(lambda group=workers: group.have_ended, deadline - time.monotonic())
    starts = [entry.key for entry in trial.sink.entries("start")]
    most = max(starts.count(key) for key in set(starts) - {999})
    note = (
        f"{starts.count(999)} starts of the deadly task, {groups} of the command, up to {most} of a neighbour"
    )
    return trial.account(note)


def killed_broker(trial: Trial) -> Account:
    """8. The broker is killed while 200 tasks are submitted and run, and started on the same data."""
    trial.start_workers(processes=2)
    trial.submit(1)
    trial.settle(quiet=5, timeout=10)
    producer = trial.start_producer(TASKS, first=1, threads=8, rate=100, seconds=0.2)
    at = trial.random.randint(100, 190)
    trial.wait_until(lambda: trial.count("row") >= at, 10)
    trial.node.kill()
    trial.node.start()
    producer.wait(20)
    trial.settle(quiet=8, timeout=25)
    return trial.account(f"{trial.count('refused')} refused")


#: By the numbers of the fault suite: what is played, and with which `confirm_delivery`.
SCENARIOS: dict[str, tuple[Callable[[Trial], Account], bool]] = {
    "1": (killed_producer, True),
    "2": (stale_acknowledgement, True),
    "3": (refused_retry, True),
    "3-unconfirmed": (refused_retry, False),
    "3-alarm": (retry_in_alarm, False),
    "4": (submissions_in_alarm, True),
    "4-unconfirmed": (submissions_in_alarm, False),
    "4-killed": (alarm_then_kill, False),
    "5": (killed_worker, True),
    "6": (stopped_worker, True),
    "6-default": (stopped_unnoticed, True),
    "7": (deadly_task, True),
    "8": (killed_broker, True),
    "8-unconfirmed": (killed_broker, False),
}
