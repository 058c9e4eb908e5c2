"""The language in e5's vectors: the directions it lies along, and what is found once it is out."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from pipelines.documents.embedders import e5_languages
from pipelines.documents.embedders.e5 import E5Embedder
from pipelines.documents.embedders.e5_languages import (
    SENTENCES,
    find_directions,
    stored_directions,
    without_language,
)
from pipelines.documents.embedders.e5_weights import Floats
from tasks.errors import SettingsError

# A question in both languages, and its answer in both languages
ASKED = [
    (
        "How long can I return a product after I bought it?",
        "购买商品之后多久之内可以退货？",
        "Goods may be sent back within thirty days of purchase; the price is refunded in full.",
        "商品可在购买后三十天内退回，货款全额退还。",
    ),
    (
        "Which organ produces insulin?",
        "哪个器官分泌胰岛素？",
        "The pancreas makes the hormone that lowers the sugar in the blood, and digestive enzymes too.",
        "胰腺分泌降低血糖的激素，也分泌消化酶。",
    ),
    (
        "What should I do if the printer jams?",
        "打印机卡纸了怎么办？",
        "When paper is stuck, switch the device off, open the rear cover and pull the sheet out slowly.",
        "纸张卡住时，请关闭设备电源，打开后盖，慢慢把纸抽出来。",
    ),
    (
        "When was the bridge built?",
        "这座大桥是什么时候建成的？",
        "Work on the crossing over the river began in 1931, and it opened to traffic four years later.",
        "这座跨江通道于1931年动工，四年后通车。",
    ),
]
UNRELATED_ENGLISH = [
    "Add the flour little by little and knead the dough until it no longer sticks.",
    "The home team scored twice in the second half and won the cup.",
    "The orchestra plays every Sunday evening in the old town hall.",
    "Whales breathe air and come up to the surface every few minutes.",
    "The tenant pays the rent at the beginning of each month.",
]
# What an English question prefers to its Chinese answer is less far away: the same subject, another matter
BESIDE_THE_POINT = [
    "You have two weeks to pay for a product after you received it.",
    "The kidneys filter the blood.",
    "If the printer is out of ink, a red lamp lights up.",
    "The bridge was painted green again last summer.",
]
UNRELATED_CHINESE = [
    "一点一点地加入面粉，揉到面团不再粘手为止。",
    "主队在下半场攻入两球，赢得了冠军。",
    "乐团每个星期天晚上在老市政厅演出。",
    "鲸鱼用肺呼吸，每隔几分钟就要浮出水面。",
    "租客应在每月月初支付房租。",
]
CASES = [
    case
    for english, chinese, english_answer, chinese_answer in ASKED
    for case in (
        (chinese, english_answer, UNRELATED_CHINESE),
        (english, chinese_answer, UNRELATED_ENGLISH + BESIDE_THE_POINT),
    )
]


@pytest.fixture(scope="module")
def e5() -> E5Embedder:
    return E5Embedder()


def first(question: Floats, passages: Floats) -> int:
    return int(np.argmax(passages @ question))


@pytest.mark.parametrize(("question", "answer", "others"), CASES)
def test_an_answer_in_another_language_comes_before_other_passages_in_the_questions_own(
    e5: E5Embedder, question: str, answer: str, others: Sequence[str]
) -> None:
    assert first(e5.query(question), e5.passages([answer, *others])) == 0


@pytest.mark.parametrize(("question", "answer", "others"), CASES)
def test_with_the_language_in_its_vector_the_answer_comes_later(
    e5: E5Embedder, question: str, answer: str, others: Sequence[str]
) -> None:
    assert first(e5._raw_queries([question])[0], e5._raw_passages([answer, *others])) != 0


def test_an_answer_in_the_questions_own_language_is_still_first(e5: E5Embedder) -> None:
    for own, unrelated in ((0, UNRELATED_ENGLISH), (1, UNRELATED_CHINESE)):
        passages = e5.passages([*(row[2 + own] for row in ASKED), *unrelated])

        assert [first(e5.query(row[own]), passages) for row in ASKED] == list(range(len(ASKED)))


def test_vectors_have_no_part_along_the_directions_and_are_of_length_one(e5: E5Embedder) -> None:
    texts = ["", "one", "二", "три", "Vier Wörter, zwei Sprachen: 四个词。" * 60]
    vectors = np.concatenate([e5.passages(texts), [e5.query(text) for text in texts]])

    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert np.abs(vectors @ stored_directions().T).max() < 1e-5


def test_the_stored_directions_are_orthonormal_and_nobody_can_change_them() -> None:
    directions = stored_directions()

    assert directions.shape == (7, 384)
    assert directions.dtype == np.float32
    assert np.abs(directions @ directions.T - np.eye(7)).max() < 1e-5
    with pytest.raises(ValueError, match="read-only"):
        directions[0] = 0.0


def test_the_stored_directions_are_those_of_the_sentences_and_the_installed_model(e5: E5Embedder) -> None:
    found = find_directions(e5._raw_passages, e5._raw_queries)

    # Cosines of the angles between the two subspaces
    cosines = np.linalg.svd(found @ stored_directions().T, compute_uv=False)
    assert cosines.min() > 0.9999


def test_what_differs_between_languages_alone_is_found_whatever_the_texts_mean() -> None:
    # Given vectors that are the sum of a language and a meaning
    rng = np.random.default_rng(1)
    axes = np.linalg.qr(rng.normal(size=(32, 15)))[0].T
    parts = {
        sentence: (axes[language], axes[7 + number])
        for language, sentences in enumerate([list(one) for one in SENTENCES.values()][:7])
        for number, sentence in enumerate(sentences)
    }
    parts |= {sentence: (np.zeros(32), axes[7 + n]) for n, sentence in enumerate(SENTENCES["ru"])}

    def embed(texts: Sequence[str]) -> Floats:
        return np.stack([sum(parts[text]) for text in texts]).astype(np.float32)

    # When the directions are found and taken out
    directions = find_directions(embed)
    vectors = [without_language(embed(sentences), directions) for sentences in SENTENCES.values()]

    # Then a sentence is the same in all languages, and the directions are the same whenever they are found
    for other in vectors[1:]:
        assert other == pytest.approx(vectors[0], abs=1e-5)
    assert (directions == find_directions(embed)).all()
    assert (directions.max(axis=1) == np.abs(directions).max(axis=1)).all()


def test_there_is_each_sentence_in_each_language_once() -> None:
    assert len(SENTENCES) == 8
    assert {len(sentences) for sentences in SENTENCES.values()} == {8}
    assert len({sentence for sentences in SENTENCES.values() for sentence in sentences}) == 64


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(e5_languages, "FILE", tmp_path / "e5_languages.npy")
    stored_directions.cache_clear()
    yield e5_languages.FILE
    stored_directions.cache_clear()


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "cut", "shape"])
def test_a_damaged_file_is_refused_with_what_to_do(file: Path, damage: str) -> None:
    if damage == "shape":
        np.save(file, np.zeros((7, 3), np.float32))
    elif damage == "cut":
        np.save(file, np.zeros((7, 384), np.float32))
        file.write_bytes(file.read_bytes()[:-1])
    elif damage != "missing":
        file.write_text("" if damage == "empty" else "nothing of the kind")

    with pytest.raises(SettingsError, match="reinstall callboard"):
        stored_directions()
