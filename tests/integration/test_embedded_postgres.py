"""The embedded Postgres: it keeps its data, is shared by its holders and survives them."""

import os
import pwd
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import psycopg
import pytest

from tasks import embedded, embedded_programs
from tasks.embedded import embedded_postgres
from tasks.errors import EmbeddedPostgresError

HOLDER = """
import sys
from pathlib import Path
from tasks.embedded import embedded_postgres
with embedded_postgres(Path(sys.argv[1])) as url:
    print(url, flush=True)
    sys.stdin.read()
"""
ROOT = os.geteuid() == 0
only_as_root = pytest.mark.skipif(not ROOT, reason="only root can become someone else")


@pytest.fixture
def fresh_dir() -> Iterator[Path]:
    """An empty data directory below a folder that is closed to other users."""
    # Not tmp_path: pytest keeps those of the last runs, and a cluster is 40 MB.
    with tempfile.TemporaryDirectory(prefix="callboard-test-") as folder:
        yield Path(folder) / "deep" / "below"


@pytest.fixture(scope="module")
def used_dir() -> Iterator[Path]:
    """A data directory that was used before and is stopped."""
    with tempfile.TemporaryDirectory(prefix="callboard-test-") as folder:
        with embedded_postgres(Path(folder)):
            pass
        yield Path(folder)


@pytest.fixture
def data_dir(fresh_dir: Path, used_dir: Path) -> Path:
    """A data directory of one's own; copied, which takes a tenth of the time of a new one."""
    fresh_dir.parent.mkdir()
    subprocess.run(["cp", "-a", str(used_dir), str(fresh_dir)], check=True)
    return fresh_dir


@contextmanager
def another_holder(data_dir: Path) -> Iterator["subprocess.Popen[str]"]:
    """A second process that holds the server until its standard input ends."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline().startswith("postgresql://")
        yield holder
    finally:
        holder.stdin.close()
        holder.wait(30)
        holder.stdout.close()


def ask(url: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(query).fetchall()


def remember(url: str, text: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS memory (text text)")
        connection.execute("INSERT INTO memory VALUES (%s)", [text])


def remembered(url: str) -> list[str]:
    return [str(row[0]) for row in ask(url, "SELECT text FROM memory")]


def started_at(url: str) -> object:
    return ask(url, "SELECT pg_postmaster_start_time()")[0][0]


def postmaster(data_dir: Path) -> int:
    return int((data_dir / "postgres" / "data" / "postmaster.pid").read_text().splitlines()[0])


def is_running(data_dir: Path) -> bool:
    return (data_dir / "postgres" / "data" / "postmaster.pid").exists()


def eventually(condition: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_what_was_stored_is_there_after_a_restart(fresh_dir: Path) -> None:
    # Given a fresh folder in which something was stored
    with embedded_postgres(fresh_dir) as url:
        remember(url, "kept")
    assert not is_running(fresh_dir)

    # When it is opened again
    with embedded_postgres(fresh_dir) as url:
        # Then it is still there
        assert remembered(url) == ["kept"]


def test_the_role_can_create_the_extensions_that_search_needs(data_dir: Path) -> None:
    with embedded_postgres(data_dir) as url, psycopg.connect(url) as connection:
        # When the migrations create them
        connection.execute("CREATE EXTENSION vector")
        connection.execute("CREATE EXTENSION pg_trgm")

        # Then vectors and trigrams work, and CJK text is split at its punctuation
        assert connection.execute("SELECT '[1,2]'::vector <-> '[1,3]'").fetchone() == (1.0,)
        assert connection.execute("SELECT cardinality(show_trgm('知识库')) > 0").fetchone() == (True,)
        words = connection.execute("SELECT tsvector_to_array(to_tsvector('simple', '知识库，系统。'))")
        assert words.fetchone() == (["知识库", "系统"],)


def test_it_listens_on_a_unix_socket_only_and_wants_the_password(data_dir: Path) -> None:
    with embedded_postgres(data_dir) as url:
        # Then no address is listened on
        assert ask(url, "SHOW listen_addresses") == [("",)]

        # And a wrong password is refused
        secret = (data_dir / "postgres" / "password").read_text()
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(url.replace(secret, "guessed"))

        # And nobody else can read the right one
        assert (data_dir / "postgres" / "password").stat().st_mode & 0o077 == 0


def test_the_last_holder_stops_it(data_dir: Path) -> None:
    # Given two processes that hold it
    with another_holder(data_dir):
        with embedded_postgres(data_dir) as url:
            first_start = started_at(url)

        # When one of them leaves, then it runs on
        assert is_running(data_dir)
        with embedded_postgres(data_dir) as url:
            assert started_at(url) == first_start

    # When the other one leaves too, then it is stopped
    assert not is_running(data_dir)


def test_it_survives_a_holder_that_is_killed_and_the_next_one_takes_it_over(data_dir: Path) -> None:
    # Given a holder that is killed
    with another_holder(data_dir) as holder:
        with embedded_postgres(data_dir) as url:
            first_start = started_at(url)
            remember(url, "kept")
        holder.send_signal(signal.SIGKILL)
        holder.wait(10)

    # When the next one comes
    assert alive(postmaster(data_dir))
    with embedded_postgres(data_dir) as url:
        # Then it is the same server, with its data
        assert started_at(url) == first_start
        assert remembered(url) == ["kept"]

    # And its leaving stops it
    assert not is_running(data_dir)


def test_it_starts_again_after_the_server_was_killed(data_dir: Path) -> None:
    # Given a holder whose server is killed
    with another_holder(data_dir):
        with embedded_postgres(data_dir) as url:
            first_start = started_at(url)
            remember(url, "kept")
        os.kill(postmaster(data_dir), signal.SIGKILL)

        # When another one comes at once, then it is started again, with its data
        with embedded_postgres(data_dir) as url:
            assert started_at(url) != first_start
            assert remembered(url) == ["kept"]


def test_a_process_id_that_a_stranger_has_by_now_does_not_matter(data_dir: Path) -> None:
    # Given a server that was killed, and a stranger of the same user who has its process id
    with another_holder(data_dir) as holder:
        holder.kill()
        holder.wait(10)
    pid = postmaster(data_dir)
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not alive(pid))
    owner = (data_dir / "postgres" / "data").stat().st_uid
    with subprocess.Popen(["sleep", "60"], user=owner if ROOT else None) as stranger:
        for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
            file = data_dir / "postgres" / "data" / name
            file.write_text(file.read_text().replace(str(pid), str(stranger.pid), 1))

        # When the next one comes, then it starts and stops, and the stranger is left in peace
        with embedded_postgres(data_dir) as url:
            assert ask(url, "SELECT 1") == [(1,)]
        assert stranger.poll() is None
        stranger.kill()


def test_control_c_in_the_terminal_does_not_reach_it(data_dir: Path) -> None:
    with embedded_postgres(data_dir):
        assert os.getsid(postmaster(data_dir)) != os.getsid(0)


def test_a_start_that_fails_shows_the_log_and_says_what_to_do(data_dir: Path) -> None:
    # Given a configuration that Postgres refuses
    with embedded_postgres(data_dir):
        pass
    with (data_dir / "postgres" / "data" / "postgresql.conf").open("a") as configuration:
        configuration.write("nonsense = on\n")

    # When it is started
    with pytest.raises(EmbeddedPostgresError) as refused, embedded_postgres(data_dir):
        pass

    # Then the error has Postgres's words and ours
    assert 'unrecognized configuration parameter "nonsense"' in refused.value.message
    assert "CALLBOARD_DATABASE_URL" in refused.value.message


def test_a_folder_with_a_path_too_long_for_a_socket_will_do(data_dir: Path) -> None:
    long = data_dir.with_name("long" * 30)
    data_dir.rename(long)
    try:
        with embedded_postgres(long) as url:
            assert ask(url, "SELECT 1") == [(1,)]
    finally:
        for link in Path("/tmp").glob("callboard-*"):
            if link.is_symlink() and link.readlink().is_relative_to(long):
                link.unlink()


@only_as_root
def test_root_lets_an_unprivileged_user_run_it_in_a_folder_closed_to_others(fresh_dir: Path) -> None:
    # Given a folder that only root can enter
    assert fresh_dir.parents[1].stat().st_mode & 0o077 == 0

    # When root starts it there
    with embedded_postgres(fresh_dir):
        # Then it runs as someone else, and the folder is as closed as before
        assert (fresh_dir / "postgres" / "data").stat().st_uid != 0
        assert fresh_dir.parents[1].stat().st_mode & 0o077 == 0


@only_as_root
def test_programs_out_of_that_users_reach_are_copied_once(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a wheel below a folder that only root can enter
    with tempfile.TemporaryDirectory(prefix="callboard-test-") as folder:
        cache = Path(folder)
        cache.chmod(0o755)
        monkeypatch.setattr(embedded_programs, "CACHE", cache)
        monkeypatch.setattr(embedded_programs.Account, "may_use", lambda *_: False)

        # When it is started twice, then it runs from one copy
        for _ in range(2):
            with embedded_postgres(data_dir) as url:
                assert ask(url, "SELECT 1") == [(1,)]
        assert len(list(cache.iterdir())) == 1


@only_as_root
def test_it_runs_for_a_normal_user_too(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = pwd.getpwnam("nobody")
    # Given programs that a normal user can reach
    reached = embedded_programs.programs(embedded_programs.Account(nobody.pw_uid, nobody.pw_gid))
    monkeypatch.setattr(embedded, "programs", lambda _: reached)
    with tempfile.TemporaryDirectory(prefix="callboard-test-") as folder:
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        answer, question = get_context("fork").Pipe(duplex=False)

        def run_as_nobody() -> None:
            os.setgroups([])
            os.setgid(nobody.pw_gid)
            os.setuid(nobody.pw_uid)
            try:
                with embedded_postgres(Path(folder)) as url:
                    question.send((os.geteuid(), ask(url, "SELECT 1")))
            except BaseException as error:
                question.send(repr(error))

        # When a process of that user starts it
        child = get_context("fork").Process(target=run_as_nobody)
        child.start()

        # Then it answers
        assert answer.poll(30)
        assert answer.recv() == (nobody.pw_uid, [(1,)])
        child.join(30)
        assert not (Path(folder) / "postgres" / "data" / "postmaster.pid").exists()
