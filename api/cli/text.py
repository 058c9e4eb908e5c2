"""Small helpers that make values fit for a terminal."""

from datetime import datetime


def clean(text: str) -> str:
    """Return the text without characters that would steer the terminal."""
    return "".join(character for character in text if character.isprintable() or character in "\n\t")


def one_line(text: str, width: int) -> str:
    """Return the text in one line of at most ``width`` characters, shortened in its middle."""
    line = " ".join(clean(text).split())
    if len(line) <= width:
        return line
    head = (width - 1) // 2
    return f"{line[:head]}…{line[len(line) - (width - 1 - head) :]}"


def moment(at: datetime | None) -> str:
    """Return a time for people: local, to the second."""
    return "" if at is None else at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def seconds(duration: float) -> str:
    """Return a duration for people."""
    if duration < 60:
        return f"{duration:.1f} s"
    minutes, rest = divmod(round(duration), 60)
    return f"{minutes} min {rest} s"


def counted(number: int, word: str) -> str:
    """Return ``1 document``, ``2 documents``."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"
