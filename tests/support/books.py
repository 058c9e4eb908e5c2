"""Books made in code: Markdown with chapters and paragraphs, in which no two sentences are the same."""

import random

_WORDS = (
    "actor",
    "board",
    "call",
    "clock",
    "curtain",
    "cue",
    "door",
    "echo",
    "gallery",
    "key",
    "lamp",
    "letter",
    "light",
    "machine",
    "note",
    "oboe",
    "order",
    "page",
    "pipe",
    "prompt",
    "queue",
    "record",
    "rope",
    "scene",
    "score",
    "shadow",
    "sign",
    "stage",
    "stair",
    "step",
    "table",
    "tower",
    "trap",
    "violin",
    "wagon",
    "wall",
)
_PARAGRAPHS_A_CHAPTER = 12


def a_book(seed: int, *, paragraphs: int, words: int) -> str:
    """A book of so many paragraphs of about so many words, under headings of two levels."""
    return "\n\n".join(pieces(seed, paragraphs=paragraphs, words=words))


def pieces(seed: int, *, paragraphs: int, words: int) -> list[str]:
    """The same book as its headings and paragraphs, in order."""
    chance = random.Random(seed)
    parts = [f"# Book {seed}"]
    for number in range(paragraphs):
        if number % _PARAGRAPHS_A_CHAPTER == 0:
            parts.append(f"## Chapter {number // _PARAGRAPHS_A_CHAPTER + 1}")
        parts.append(_paragraph(chance, f"{seed}.{number}", words))
    return parts


def _paragraph(chance: random.Random, name: str, words: int) -> str:
    """Some sentences, the first of which has the paragraph's name."""
    left = chance.randint(words * 2 // 3, words * 4 // 3)
    sentences = []
    while left > 0:
        length = min(left, chance.randint(6, 18))
        sentences.append(" ".join(chance.choices(_WORDS, k=length)).capitalize() + ".")
        left -= length
    return f"In {name} " + " ".join(sentences)
