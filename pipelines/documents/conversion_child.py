"""The program in which documents are converted: one child process, one document at a time.

It imports nothing of Callboard, because starting it must be cheap, and is started by its path:

    conversion_child.py PARENT_PID MEMORY_BYTES IDLE_SECONDS PACKAGES_FOLDER

A request is a line of JSON on standard input: ``{path, media_type, seconds, processor_seconds, max_bytes}``.
The reply is a line of JSON on standard output, ``{outcome, size}``, and ``size`` bytes of UTF-8 after it: the
Markdown where the outcome is ``converted``, the converter's own words where it is ``refused``, nothing for
``too_large``, ``out_of_memory`` and ``missing``. A first line, ``ready``, comes unasked.
"""

import asyncio
import json
import os
import resource
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

_ANSWER_AT_MOST = 2_000
_GRACE_SECONDS = 5.0
_FILES_AT_MOST = 1 << 20

Convert = Callable[[str, str], str]


def main(arguments: list[str]) -> None:
    """Serve requests until standard input closes, the parent is gone or nothing is asked for a while."""
    parent, memory, idle_seconds = int(arguments[0]), int(arguments[1]), float(arguments[2])
    _limit_resources(memory)
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    replies = _reserve_standard_output()
    sys.path.insert(0, arguments[3])
    convert = _converter()
    _reply(replies, "ready")
    while select.select([sys.stdin], [], [], idle_seconds)[0]:
        line = sys.stdin.buffer.readline()
        if not line:
            return
        _answer(json.loads(line), convert, replies)


def _limit_resources(memory: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILES_AT_MOST, _FILES_AT_MOST))
    # What can be written to, unlike RLIMIT_AS, which also counts the program's own 200 MB of libraries and
    # what is reserved only. macOS refuses both; there the clocks have to do.
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))


def _end_with_parent(parent: int) -> None:
    """Kill this process group once the parent is gone, however it went.

    The kernel's own signal for this (PR_SET_PDEATHSIG) comes when the parent's *thread* ends, too early.
    """
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(0, signal.SIGKILL)


def _reserve_standard_output() -> IO[bytes]:
    """Keep standard output for replies: whatever a library prints goes to standard error."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return replies


def _converter() -> Convert:
    import xberg  # after the limits are set and its folder is known

    html = xberg.ConversionOptions(
        extract_metadata=False,  # it would become a heading "title: …"
        skip_images=True,
        max_depth=200,  # beyond it text is lost; the parent sees to it that nothing is
        # ASP.NET puts whole pages into a form, so forms stay and their controls go.
        preprocessing=xberg.PreprocessingOptions(preset="standard", remove_forms=False),
        exclude_selectors=["script", "style", "noscript", "template", "button", "select", "footer"],
    )
    config = xberg.ExtractionConfig(
        output_format="markdown",
        use_cache=False,
        disable_ocr=True,
        max_archive_depth=0,
        content_filter=xberg.ContentFilterConfig(include_footnotes=True),
        html_options=html,
        # The parent has checked what archives unpack to; these are for honest large spreadsheets.
        security_limits=xberg.SecurityLimits(max_compression_ratio=1100, max_table_cells=5_000_000),
    )
    loop = asyncio.new_event_loop()

    async def extract(content: bytes, media_type: str) -> Any:
        source = xberg.ExtractInput(kind="bytes", bytes=content, mime_type=media_type)
        return await xberg.extract(source, config)

    def convert(path: str, media_type: str) -> str:
        with open(path, "rb") as file:
            content = file.read()
        extraction = loop.run_until_complete(extract(content, media_type))
        if extraction.errors:
            raise ValueError(str(extraction.errors[0].message))
        return "\n\n".join(document.content for document in extraction.results)

    return convert


def _answer(request: dict[str, Any], convert: Convert, replies: IO[bytes]) -> None:
    # The parent kills at the deadline; should the parent be gone, the kernel does, whatever runs here.
    signal.setitimer(signal.ITIMER_REAL, request["seconds"] + _GRACE_SECONDS)
    signal.setitimer(signal.ITIMER_PROF, request["processor_seconds"])
    outcome, body = _outcome(request, convert)
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    _reply(replies, outcome, body)


def _reply(replies: IO[bytes], outcome: str, body: bytes = b"") -> None:
    replies.write(json.dumps({"outcome": outcome, "size": len(body)}).encode() + b"\n" + body)
    replies.flush()


def _outcome(request: dict[str, Any], convert: Convert) -> tuple[str, bytes]:
    try:
        markdown = convert(request["path"], request["media_type"]).encode("utf-8", "replace")
    except OSError:  # its words would tell the path
        return "missing", b""
    except MemoryError:
        return "out_of_memory", b""
    except Exception as error:  # whatever the converter raises is its verdict on the document
        return "refused", str(error).encode("utf-8", "replace")[:_ANSWER_AT_MOST]
    return ("converted", markdown) if len(markdown) <= request["max_bytes"] else ("too_large", b"")


if __name__ == "__main__":
    main(sys.argv[1:])
