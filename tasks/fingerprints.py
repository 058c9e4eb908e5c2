"""The fingerprint of a failure: the same for failures that differ only in what was at hand. Pure.

It is made of the error's class, its message without what changes from case to case, and the place in the
code that raised it: the last frame of the traceback by file and function. Lines move with every release.
"""

import hashlib
import re

#: So many characters of a message tell failures apart.
MOST = 500
LENGTH = 16

# In this order: a path may hold numbers, and a quoted text anything.
_CHANGING = (
    (re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b", re.IGNORECASE), "<id>"),
    (re.compile(r"""(?<!\w)(?:'[^'\n]*'|"[^"\n]*"|`[^`\n]*`)(?!\w)"""), "<text>"),
    (re.compile(r"\b[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE), "<path>"),
    (re.compile(r"(?<![\w<>])(?:[A-Za-z]:\\|~?\.{0,2}/)[^\s:,;()\"']+"), "<path>"),
    (re.compile(r"\b0x[0-9a-f]+\b", re.IGNORECASE), "<hex>"),
    (re.compile(r"\b(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{8,}\b", re.IGNORECASE), "<hex>"),
    (re.compile(r"\d+(?:[.,]\d+)*"), "<n>"),
    (re.compile(r"\s+"), " "),
)
_FRAME = re.compile(r'File "([^"\n]*)", line \d+, in ([^\n]+)')


def normalised(message: str) -> str:
    """A message without its numbers, ids, hexadecimals, quoted texts, paths and addresses."""
    text = message[:MOST]
    for changing, word in _CHANGING:
        text = changing.sub(word, text)
    return text.strip()


def raised_at(traceback: str | None) -> str:
    """The place that raised: ``file.py:function``; empty if no traceback tells."""
    text = traceback or ""
    at = len(text)
    while (at := text.rfind("File ", 0, at)) >= 0:
        if (frame := _FRAME.match(text, at)) is not None:
            file = frame[1].replace("\\", "/").rpartition("/")[2]
            return f"{file}:{frame[2].strip()}"
    return ""


def fingerprint(error_class: str, message: str, traceback: str | None) -> str:
    """The fingerprint of a failure: 16 hexadecimal digits."""
    parts = "\0".join((error_class, normalised(message), raised_at(traceback)))
    return hashlib.blake2b(parts.encode(), digest_size=LENGTH // 2).hexdigest()
