"""What the newsroom's workers do, one function for each type of task."""

from typing import Annotated

import msgspec

from actors import Permanent, actor, current_task

BANNED = ("lorem ipsum",)
STEPS = ("下载", "转码", "上传", "通知")
PARAGRAPH = 400


class Brief(msgspec.Struct):
    """What to write about: ``length`` is in characters."""

    topic: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    style: str = "plain"
    length: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 800


class Video(msgspec.Struct):
    """A video to work on."""

    source: str = "interview.mp4"


@actor(queue="processing", max_retries=3, timeout=300)
def content_generation(brief: Brief) -> dict[str, str]:
    """Write an article, paragraph by paragraph; a worker that dies leaves the paragraphs it has."""
    if brief.topic.lower() in BANNED:
        raise Permanent(f"we do not write about {brief.topic}")
    task = current_task()
    written: list[str] = task.state or []
    wanted = -(-brief.length // PARAGRAPH)
    while len(written) < wanted:
        written.append(_paragraph(brief, len(written) + 1))
        task.checkpoint(written)
        task.progress(
            step="writing", done=len(written), total=wanted, message=f"paragraph {len(written)} of {wanted}"
        )
    return {"content": "\n\n".join(written)[: brief.length]}


@actor(queue="processing", timeout=3_600)
def video_processing(video: Video) -> dict[str, object]:
    """Take a video through its steps, and say before each of them how far it is."""
    task = current_task()
    for number, step in enumerate(STEPS):
        task.progress(step=step, done=number, total=len(STEPS), message=f"正在{step}...")
    return {"source": video.source, "steps": list(STEPS)}


@actor(queue="notification", max_retries=1)
def hotspot_monitor() -> dict[str, list[str]]:
    """Look what people talk about; it takes no payload."""
    return {"hotspots": ["AI技术", "区块链", "元宇宙"]}


def _paragraph(brief: Brief, number: int) -> str:
    sentence = f"{brief.topic}, {brief.style}, part {number}. "
    return (sentence * (PARAGRAPH // len(sentence) + 1))[:PARAGRAPH]
