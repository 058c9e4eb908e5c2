"""The newsroom's own tests: they need no server, and no Postgres."""

from collections.abc import Iterator

import newsroom
import pytest

from actors import TaskFailed, current_task, result, status, submit, wait
from actors.testing import MemoryBoard, in_memory


@pytest.fixture
def board() -> Iterator[MemoryBoard]:
    with in_memory(newsroom) as board:
        yield board


def test_an_article_is_as_long_as_it_was_asked_for(board: MemoryBoard) -> None:
    task = wait(submit("content_generation", {"topic": "AI技术发展趋势", "length": 2000}).task_id)

    assert (task.status, task.queue_name) == ("completed", "processing")
    assert len(task.result["content"]) == 2000


def test_an_article_is_not_begun_anew_after_a_failure(
    board: MemoryBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a writer who faints at the third paragraph, once
    write = newsroom.actors._paragraph

    def faint(brief: object, number: int) -> str:
        if number == 3 and current_task().attempt == 1:
            raise ConnectionError("fainted")
        return write(brief, number)  # type: ignore[arg-type]

    monkeypatch.setattr(newsroom.actors, "_paragraph", faint)

    # When an article of four paragraphs is written
    task = wait(submit("content_generation", {"topic": "tea", "length": 1600}).task_id)

    # Then the second attempt wrote only what was missing.
    steps = [event.message for event in board.history(task.task_id) if event.kind == "progress"]
    assert steps == [f"paragraph {number} of 4" for number in (1, 2, 3, 4)]
    assert task.attempts == 2


def test_what_we_do_not_write_about_fails_at_once(board: MemoryBoard) -> None:
    task = wait(submit("content_generation", {"topic": "Lorem ipsum"}).task_id)

    assert task.attempts == 1
    with pytest.raises(TaskFailed, match="we do not write about"):
        result(task.task_id)


def test_a_video_goes_through_its_steps(board: MemoryBoard) -> None:
    task = wait(submit("video_processing", {"source": "tea.mp4"}).task_id)

    phases = [event.phase for event in board.history(task.task_id) if event.kind == "progress"]
    assert phases == ["下载", "转码", "上传", "通知"]
    assert status(task.task_id).details == {"step": "通知", "steps_done": 3, "steps_total": 4}


def test_the_monitor_takes_no_payload(board: MemoryBoard) -> None:
    assert "AI技术" in wait(submit("hotspot_monitor").task_id).result["hotspots"]


def test_assets_are_counted(board: MemoryBoard) -> None:
    payload = {"provider": "aliyun", "asset_types": ["ecs"], "regions": ["cn-shenzhen"]}

    task = wait(submit("sync_assets", payload).task_id)

    assert task.result["total_count"] == 2
    assert wait(submit("sync_assets", {"provider": "nobody"}).task_id).status == "failed"


def test_an_issue_has_an_article_for_every_topic_in_their_order(board: MemoryBoard) -> None:
    run = submit(newsroom.newsletter, {"title": "Weekly", "topics": ["tea", "cake", "tea"]})

    assert wait(run.task_id).result == {
        "newsletter": "# Weekly\n\n## tea\nAll about tea.\n\n## cake\nAll about cake."
    }
