"""Replaying many dead letters: jobs that any clock works off, each of their items once."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pytest
from playhouse.pool import PooledPostgresqlDatabase

from actors.rabbitmq.topology import DEAD_MESSAGE_TTL_MS
from actors.replays import BATCH, Replayer
from tasks.ids import new_id
from tasks.ledger.dead_letters import Edit
from tasks.ledger.replays import Planned
from tasks.letter_records import Candidate, LetterFilter
from tasks.letters import SEARCHED
from tasks.settings import Settings
from tasks.values import Advance, NewTask
from tests.support.bench import Bench
from tests.support.waiting import eventually


class Broken:
    """What nobody should have to judge payloads by."""

    def patched(self, letter: Candidate, patch: Mapping[str, Any]) -> Edit:
        raise ZeroDivisionError


MANY_LETTERS = """
INSERT INTO dead_letters (task_id, task_type, queue_name, user_id, attempt, error_class, code, message,
    failed_at, fingerprint)
SELECT gen_random_uuid(), 'work', 'default', '', 1, 'E', 'x', 'letter ' || n,
    now() - make_interval(secs => n), mod(n, 3) FROM generate_series(1, %s) AS n"""


@pytest.fixture
def bench(shared: PooledPostgresqlDatabase, url: str) -> Iterator[Bench]:
    made = Bench(shared, url)
    yield made
    made.close()


def test_a_job_replays_each_of_its_letters_once(bench: Bench) -> None:
    # Given more failed tasks than a step takes at once
    ids = bench.failed(BATCH + 20)
    replay_id = bench.open()
    assert bench.job(replay_id).counts == {"pending": len(ids), "replayed": 0, "skipped": 0}
    # When the clocks work it off
    eventually(lambda: bench.step() or bench.job(replay_id).status == "completed")
    # Then all of them are ready again, once
    claims = bench.fetch()
    assert sorted(claim.id for claim in claims) == sorted(ids)
    # And what becomes of them is told with the job
    for claim in claims[1:]:
        bench.complete(claim)
    bench.fail(claims[0])
    job = bench.job(replay_id)
    assert job.outcomes == {"completed": len(ids) - 1, "failed": 1}
    assert job.counts == {"pending": 0, "replayed": len(ids), "skipped": 0}


def test_a_job_goes_on_after_its_canaries_have_completed(bench: Bench) -> None:
    ids = bench.failed(5)
    replay_id = bench.open(canary=2)
    # Given the first two on their way, then nothing else is begun
    for _ in range(3):
        bench.step()
    assert bench.job(replay_id).status == "canary"
    canaries = bench.fetch()
    assert sorted(claim.id for claim in canaries) == sorted(ids[:2])
    bench.complete(canaries[0])
    bench.step()
    assert bench.fetch() == []
    # When both have completed, then the others follow
    bench.complete(canaries[1])
    eventually(lambda: bench.step() or bench.job(replay_id).status == "completed")
    assert sorted(claim.id for claim in bench.fetch()) == sorted(ids[2:])


def test_a_canary_that_fails_stops_the_job_until_it_is_resumed(bench: Bench) -> None:
    ids = bench.failed(4)
    replay_id = bench.open(canary=2)
    bench.step()
    first, second = bench.fetch()
    bench.complete(first)
    bench.fail(second, "still broken")
    # When a canary has failed, then nothing else is begun, and the job says why
    for _ in range(2):
        bench.step()
    job = bench.job(replay_id)
    assert job.status == "stopped"
    assert job.reason == f"canary: task {second.id} failed: RuntimeError: still broken"
    assert (bench.fetch(), job.counts["pending"]) == ([], 2)
    # When somebody resumes it all the same, then the rest goes
    assert bench.ledger.resume_replay(replay_id).result(10) == "running"
    eventually(lambda: bench.step() or bench.job(replay_id).status == "completed")
    assert sorted(claim.id for claim in bench.fetch()) == sorted(ids[2:])


def test_a_canary_that_is_cancelled_stops_the_job(bench: Bench) -> None:
    (task_id, _) = bench.failed(2)
    replay_id = bench.open(canary=1)
    bench.step()
    bench.ledger.cancel(task_id).result(10)
    bench.step()
    assert bench.job(replay_id).reason == f"canary: task {task_id} cancelled"


def test_more_canaries_than_letters_are_all_of_them(bench: Bench) -> None:
    bench.failed(2)
    replay_id = bench.open(canary=10)
    bench.step()
    bench.step()
    assert bench.job(replay_id).status == "canary"
    for claim in bench.fetch():
        bench.complete(claim)
    eventually(lambda: bench.step() or bench.job(replay_id).status == "completed")


def test_an_aborted_job_begins_nothing_and_goes_on_where_it_was(bench: Bench) -> None:
    ids = bench.failed(6)
    replay_id = bench.open(canary=2)
    bench.step()
    canaries = bench.fetch()
    # When it is aborted in the middle of its canary, twice
    assert bench.ledger.abort_replay(replay_id).result(10) == "aborted"
    assert bench.ledger.abort_replay(replay_id).result(10) == "aborted"
    bench.complete(canaries[0])
    bench.step()
    # Then nothing else is begun, and what it has not begun is open still
    assert bench.fetch() == []
    left = bench.letters.letters(LetterFilter(), limit=10, offset=0).total
    assert left == 4
    # And resumed it still waits for its canary
    assert bench.ledger.resume_replay(replay_id).result(10) == "pending"
    bench.step()
    assert (bench.fetch(), bench.job(replay_id).status) == ([], "canary")
    bench.complete(canaries[1])
    eventually(lambda: bench.step() or bench.job(replay_id).status == "completed")
    assert sorted(claim.id for claim in bench.fetch()) == sorted(ids[2:])
    assert bench.ledger.resume_replay(replay_id).result(10) == "completed"
    assert bench.ledger.abort_replay(replay_id).result(10) == "completed"


def test_a_job_that_does_not_exist_is_missing(bench: Bench) -> None:
    assert bench.ledger.abort_replay(new_id()).result(10) == "missing"
    assert bench.ledger.resume_replay(new_id()).result(10) == "missing"
    assert bench.ledger.work_off(new_id(), []).result(10) == 0


def test_a_job_keeps_to_its_rate_whoever_works_on_it(bench: Bench) -> None:
    bench.failed(30)
    replay_id = bench.open(rate=20.0)
    # Its rate counts from the moment on at which it was asked for
    took = "SELECT extract(epoch FROM now() - created_at)::float8 FROM replays WHERE id = %s"
    # When clocks look at it all the time
    seen = []
    while bench.job(replay_id).status != "completed":
        bench.step()
        counts = bench.job(replay_id).counts
        seconds = bench.sql.execute(took, (replay_id,)).fetchone()
        if counts["replayed"] and seconds is not None:
            seen.append((counts["replayed"], seconds[0]))
    # Then at no time more have gone than the rate lets
    assert all(count <= 20 * seconds + 2 for count, seconds in seen)
    assert seen[-1][1] >= 1.3


def test_two_jobs_for_the_same_letters_replay_each_of_them_once(bench: Bench) -> None:
    bench.failed(5)
    first, second = bench.open(), bench.open()
    eventually(lambda: bench.step() or bench.job(second).status == "completed")
    assert len(bench.fetch()) == 5
    assert bench.job(first).counts["replayed"] + bench.job(second).counts["replayed"] == 5
    assert set(bench.reasons(second)) == {"not_failed"}


def test_an_item_is_worked_on_once_however_often_it_is_planned(bench: Bench) -> None:
    bench.failed(3)
    replay_id = bench.open()
    found = bench.replays.next_items(replay_id, limit=10, payloads=False)
    planned = [Planned(one.position, one.dead_letter, one.ticket or new_id()) for one in found]
    done = [bench.ledger.work_off(replay_id, planned) for _ in range(5)]
    assert sum(one.result(10) for one in done) == 3
    for claim in bench.fetch():
        bench.fail(claim)
    assert bench.ledger.work_off(replay_id, planned).result(10) == 0
    assert bench.fetch() == []


def test_what_cannot_be_replayed_is_skipped_with_its_reason(bench: Bench) -> None:
    cancelled, gone, discarded, fine = bench.failed(4)
    replay_id = bench.open()
    (letter,) = bench.sql.execute("SELECT id FROM dead_letters WHERE task_id = %s", (discarded,)).fetchone()
    assert bench.ledger.discard(letter, by="user:ann").result(10) == "discarded"
    bench.ledger.delete(gone).result(10)
    bench.ledger.retry(cancelled).result(10)
    bench.ledger.cancel(cancelled).result(10)
    eventually(lambda: bench.step() or bench.job(replay_id).status == "completed")
    assert bench.reasons(replay_id) == ["not_failed", "missing", "resolved", None]
    assert [claim.id for claim in bench.fetch()] == [fine]


def test_a_patch_is_given_to_each_task_that_it_fits(bench: Bench) -> None:
    one, other = bench.failed(2)
    bench.sql.execute("UPDATE tasks SET payload = '{\"number\": null}' WHERE id = %s", (other,))
    replay_id = bench.open(payload_patch={"careful": True})
    eventually(lambda: bench.step() or bench.job(replay_id).status == "completed")
    assert bench.reasons(replay_id) == [None, "payload.number: is no number"]
    (claim,) = bench.fetch()
    assert bytes(claim.payload) == b'{"number": 0, "careful": true}'
    # And the letter keeps the payload that failed
    (letter,) = bench.letters.letters(LetterFilter(resolution="replayed"), limit=1, offset=0).items
    assert bench.letters.detail(letter, None).payload == {"number": 0}
    assert letter.resolved_by == f"replay:{replay_id}"
    assert bench.letters.detail(letter, None).replay_id == replay_id
    assert one == letter.task_id


def test_another_payload_brings_its_limit_unless_nobody_knows_it(bench: Bench) -> None:
    limits = "SELECT concurrency, concurrency_key FROM task_state WHERE id = %s"
    for edit, limit in (
        (Edit({}, 2, "lane left"), (2, "lane left")),
        (Edit(None), (None, None)),
        (Edit([], keeps_limit=True), (1, "lane")),
    ):
        (task_id,) = bench.failed(1, concurrency=1, concurrency_key="lane")
        (letter,) = bench.letters.candidates(LetterFilter(), after=None, limit=9, payloads=False)
        assert bench.ledger.replay(letter.dead_letter, edit).result(10) == "replayed"
        assert bench.sql.execute(limits, (task_id,)).fetchone() == limit
        (claim,) = bench.fetch()
        assert msgspec.json.decode(claim.payload) == edit.payload
        bench.complete(claim)


def test_with_another_payload_a_task_begins_without_the_state_that_it_had_saved(bench: Bench) -> None:
    for edit, state in ((None, {"at": 3}), (Edit({"number": 8}), None)):
        bench.ledger.submit([NewTask(task_type="work", queue_name="default")]).result(10)
        (claim,) = bench.fetch()
        assert bench.ledger.checkpoint(claim, 1, {"at": 3}).result(10)
        bench.fail(claim)
        (letter,) = bench.letters.candidates(LetterFilter(), after=None, limit=9, payloads=False)
        bench.ledger.replay(letter.dead_letter, edit).result(10)
        (again,) = bench.fetch()
        assert (None if again.state is None else msgspec.json.decode(again.state)) == state
        bench.complete(again)


def test_a_slow_job_is_completed_with_its_last_item(bench: Bench) -> None:
    bench.failed(1)
    replay_id = bench.open(rate=0.001)
    bench.step()
    assert bench.job(replay_id).status == "completed"
    # And the canary of one is looked at although nothing else may go yet
    bench.failed(2)
    slow = bench.open(rate=0.001, canary=1)
    bench.step()
    bench.fail(bench.fetch()[-1])
    bench.step()
    assert bench.job(slow).status == "stopped"


def test_a_job_that_cannot_be_worked_on_holds_up_no_other(bench: Bench) -> None:
    bench.failed(1)
    broken = bench.open(payload_patch={"number": 7})
    bench.replayer = Replayer(bench.ledger, bench.replays, Broken())
    fine = bench.open()
    with pytest.raises(ZeroDivisionError):
        bench.step()
    assert (bench.job(broken).status, bench.job(fine).status) == ("pending", "completed")


def test_failures_that_nobody_raised_are_clusters_too(bench: Bench) -> None:
    # Given two poisonous tasks, and two that depend on something that failed
    first, second = bench.failed(2)
    poison = [NewTask(task_type="work", queue_name="default") for _ in range(2)]
    bench.ledger.submit(poison).result(10)
    for _ in range(3):
        for claim in bench.fetch():
            bench.ledger.lose(claim, "Its process was killed").result(10)
    needy = [NewTask(task_type="work", queue_name="default", depends_on=(one,)) for one in (first, second)]
    bench.ledger.submit(needy).result(10)
    # Then the ones are a cluster, and so are the others
    wanted = (
        "SELECT error_class, count(*), count(DISTINCT fingerprint) FROM dead_letters GROUP BY 1 ORDER BY 1"
    )
    found = [("DependencyFailed", 2, 1), ("RuntimeError", 2, 1), ("WorkerLost", 2, 1)]
    eventually(lambda: bench.sql.execute(wanted).fetchall() == found)


def test_letters_without_a_fingerprint_get_theirs_later(bench: Bench) -> None:
    bench.failed(3)
    marks = "SELECT fingerprint, count(*) FROM dead_letters GROUP BY 1"
    ((fingerprint, number),) = bench.sql.execute(marks).fetchall()
    assert (len(fingerprint), number) == (16, 3)
    # Given letters of an earlier version
    bench.sql.execute("UPDATE dead_letters SET fingerprint = NULL")
    assert bench.ledger.mark_letters().result(10) == 3
    assert bench.ledger.mark_letters().result(10) == 0
    assert bench.sql.execute(marks).fetchall() == [(fingerprint, 3)]


def test_how_a_replayed_round_ended_is_known_when_the_task_has_gone_on(bench: Bench) -> None:
    again, deleted = bench.failed(2)
    replay_id = bench.open()
    eventually(lambda: bench.step() or bench.job(replay_id).status == "completed")
    for claim in bench.fetch():
        (bench.fail if claim.id == again else bench.complete)(claim)
    # When one is retried, and the other one is deleted
    bench.ledger.retry(again).result(10)
    bench.ledger.delete(deleted).result(10)
    # Then the job tells how the rounds ended that it had opened
    assert bench.job(replay_id).outcomes == {"failed": 1, "completed": 1}


def test_the_replay_of_a_stage_takes_what_failed_beside_it_along(bench: Bench) -> None:
    run = NewTask(task_type="pipeline", queue_name="default", is_run=True)
    stages = [
        NewTask(task_type="work", queue_name="default", run_id=run.id, stage="first", stage_index=index)
        for index in range(2)
    ]
    bench.ledger.submit([run, *stages]).result(10)
    for claim in bench.fetch():
        bench.fail(claim)
    bench.ledger.advance(Advance(run.id, status="failed", error={"code": "x", "message": "x"})).result(10)
    replay_id = bench.open()
    eventually(lambda: bench.step() or bench.job(replay_id).status == "completed")
    assert bench.job(replay_id).counts == {"pending": 0, "replayed": 1, "skipped": 1}
    assert len(bench.fetch()) == 2


def test_a_text_is_looked_for_in_the_newest_letters_and_the_answer_says_so(bench: Bench) -> None:
    bench.sql.execute(MANY_LETTERS, (SEARCHED + 5,))
    some = bench.letters.letters(LetterFilter(q="LETTER 2000"), limit=20, offset=0)
    assert [one.error["message"] for one in some.items] == ["letter 2000", "letter 20000"]
    assert (some.total, some.is_exact) == (2, False)
    clusters = bench.letters.clusters(LetterFilter(q="letter 1"), limit=2, offset=0)
    assert (len(clusters.items), clusters.total, clusters.is_exact) == (2, 3, False)
    everything = bench.letters.clusters(LetterFilter(), limit=20, offset=0)
    assert (sum(one.count for one in everything.items), everything.is_exact) == (SEARCHED + 5, True)
    # What is to be replayed is looked for in all of them
    wanted = LetterFilter(q=f"letter {SEARCHED + 5}")
    assert len(bench.letters.candidates(wanted, after=None, limit=9, payloads=False)) == 1


def test_a_letter_of_no_task_is_listed_and_a_replay_of_many_leaves_it_alone(bench: Bench) -> None:
    bench.sql.execute(MANY_LETTERS.replace("gen_random_uuid()", "NULL"), (1,))
    (letter,) = bench.letters.letters(LetterFilter(), limit=9, offset=0).items
    assert (letter.kind, letter.task_id) == ("foreign", None)
    assert bench.letters.detail(letter, None).payload is None
    assert bench.ledger.replay(letter.dead_letter_id).result(10) == "foreign"
    replay_id = bench.open(canary=1)
    eventually(lambda: bench.step() or bench.job(replay_id).status == "completed")
    assert bench.reasons(replay_id) == ["foreign"]
    assert bench.ledger.discard(letter.dead_letter_id, by="user:ann").result(10) == "discarded"


def test_a_record_outlives_its_copy_on_rabbitmq() -> None:
    assert Settings().dead_letter_days * 86_400_000 > DEAD_MESSAGE_TTL_MS


def test_old_letters_and_jobs_are_forgotten_and_open_ones_stay(bench: Bench) -> None:
    bench.failed(3)
    replay_id = bench.open()
    bench.step()
    bench.step()
    for claim in bench.fetch():
        bench.fail(claim)
    bench.sql.execute("UPDATE dead_letters SET failed_at = failed_at - interval '91 days'")
    bench.sql.execute("UPDATE replays SET created_at = created_at - interval '91 days'")
    while bench.ledger.expire_letters(90 * 86_400.0).result(10):
        pass
    assert bench.replays.replay(replay_id, owner=None) is None
    assert bench.sql.execute("SELECT count(*) FROM replay_items").fetchone() == (0,)
    left = bench.sql.execute("SELECT count(*), count(resolution) FROM dead_letters").fetchone()
    assert left == (3, 0)
