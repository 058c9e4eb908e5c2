"""The task types of the documents' examples: a user's own, served by ``CALLBOARD_ACTORS``."""

import time
from typing import Any

import msgspec

from actors import actor, current_task


class Article(msgspec.Struct, forbid_unknown_fields=True):
    """What to write about."""

    topic: str
    style: str = ""
    length: int = 0


class Video(msgspec.Struct, forbid_unknown_fields=True):
    """How long the work of each step takes, in seconds."""

    seconds: float = 0.0


@actor(queue="processing")
def content_generation(article: Article) -> dict[str, str]:
    """Write an article, or what stands for one."""
    task = current_task()
    task.progress(50, "正在生成内容...")
    task.progress(step="内容生成", done=2, total=5, message="正在生成第3段内容...")
    task.checkpoint({"paragraphs": 3})
    return {"content": f"{article.topic}：{article.style}"}


@actor(queue="processing")
def video_processing(video: Video) -> None:
    """Report each step before it is done, and save a checkpoint after it."""
    task = current_task()
    steps = ["下载", "转码", "上传", "通知"]
    for number, step in enumerate(steps):
        task.progress(step=step, done=number, total=len(steps), message=f"正在{step}...")
        time.sleep(video.seconds)
        task.checkpoint({"done": number + 1})


@actor(queue="notification")
def hotspot_monitor(payload: Any) -> None:
    """Look whether there is news, of which there is none."""


@actor(queue="processing", max_retries=0)
def task_type(payload: Any) -> None:
    """Fail, as the third example of a handler does with an error that may pass."""
    raise RuntimeError("the service is away")
