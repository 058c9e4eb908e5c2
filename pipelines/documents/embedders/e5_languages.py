"""Takes the language out of e5's vectors, so that they compare by meaning.

Vectors of multilingual-e5-small say in what language a text is as well as what it means, and the language
weighs more: among passages of several languages a question finds those of its own, however little they
answer it. What tells the languages apart lies in a few directions, and subtracting each vector's part along
them leaves the meaning. The idea is that of Xie et al. 2022 (https://arxiv.org/abs/2401.05792), who find the
directions by a singular value decomposition of the mean vectors of each language.

Our means are those of the same few sentences in eight languages, so that nothing but the language differs.
Questions and passages lie apart in e5's space and each has means of its own. Seven directions are kept, as
eight points span no more. They are stored in ``e5_languages.npy``, beside this file; after a change
of the sentences or the model ``python -m pipelines.documents.embedders.e5_languages`` writes it anew, and all
stored vectors have to be computed again.
"""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from pipelines.documents.embedders.e5_weights import Floats
from tasks.errors import SettingsError

FILE = Path(__file__).with_suffix(".npy")
DIM = 384
_SMALLEST_NORM = 1e-6

# The same sentences in the same order: statements, requests and questions of everyday life and work.
SENTENCES = {
    "en": (
        "The weather is nice today, so we are going for a walk in the park.",
        "Please send me the report by Friday.",
        "How can I change my password?",
        "What is the capital of Australia?",
        "Click the button to save the file to your computer.",
        "House prices have risen by 10% this year.",
        "Scientists have discovered a new species of frog in the rainforest.",
        "Who wrote this book, and when was it published?",
    ),
    "zh": (
        "今天天气很好，所以我们要去公园散步。",
        "请在星期五之前把报告发给我。",
        "怎样才能修改我的密码？",
        "澳大利亚的首都是哪里？",
        "点击按钮，把文件保存到您的电脑上。",
        "今年房价上涨了10%。",
        "科学家在热带雨林里发现了一种新的青蛙。",
        "这本书是谁写的，是什么时候出版的？",
    ),
    "ja": (
        "今日は天気がいいので、公園へ散歩に行きます。",
        "金曜日までに報告書を送ってください。",
        "パスワードを変更するにはどうすればいいですか。",
        "オーストラリアの首都はどこですか。",
        "ボタンをクリックして、ファイルをコンピューターに保存してください。",
        "今年、住宅価格は10%上がりました。",
        "科学者たちが熱帯雨林で新種のカエルを発見しました。",
        "この本は誰が書いたもので、いつ出版されましたか。",
    ),
    "ko": (
        "오늘은 날씨가 좋아서 공원에 산책하러 갈 거예요.",
        "금요일까지 보고서를 보내 주세요.",
        "비밀번호는 어떻게 바꾸나요?",
        "호주의 수도는 어디인가요?",
        "버튼을 클릭하여 파일을 컴퓨터에 저장하세요.",
        "올해 집값이 10% 올랐습니다.",
        "과학자들이 열대 우림에서 새로운 개구리 종을 발견했습니다.",
        "이 책은 누가 썼고 언제 출판되었나요?",
    ),
    "de": (
        "Das Wetter ist heute schön, deshalb gehen wir im Park spazieren.",
        "Bitte schicken Sie mir den Bericht bis Freitag.",
        "Wie kann ich mein Passwort ändern?",
        "Was ist die Hauptstadt von Australien?",
        "Klicken Sie auf die Schaltfläche, um die Datei auf Ihrem Computer zu speichern.",
        "Die Hauspreise sind dieses Jahr um 10 % gestiegen.",
        "Wissenschaftler haben im Regenwald eine neue Froschart entdeckt.",
        "Wer hat dieses Buch geschrieben, und wann ist es erschienen?",
    ),
    "fr": (
        "Il fait beau aujourd'hui, alors nous allons nous promener dans le parc.",
        "Veuillez m'envoyer le rapport d'ici vendredi.",
        "Comment puis-je changer mon mot de passe ?",
        "Quelle est la capitale de l'Australie ?",
        "Cliquez sur le bouton pour enregistrer le fichier sur votre ordinateur.",
        "Les prix des maisons ont augmenté de 10 % cette année.",
        "Des scientifiques ont découvert une nouvelle espèce de grenouille dans la forêt tropicale.",
        "Qui a écrit ce livre et quand a-t-il été publié ?",
    ),
    "es": (
        "Hoy hace buen tiempo, así que vamos a pasear por el parque.",
        "Por favor, envíeme el informe antes del viernes.",
        "¿Cómo puedo cambiar mi contraseña?",
        "¿Cuál es la capital de Australia?",
        "Haga clic en el botón para guardar el archivo en su ordenador.",
        "Los precios de la vivienda han subido un 10 % este año.",
        "Los científicos han descubierto una nueva especie de rana en la selva tropical.",
        "¿Quién escribió este libro y cuándo se publicó?",
    ),
    "ru": (
        "Сегодня хорошая погода, поэтому мы идём гулять в парк.",
        "Пожалуйста, пришлите мне отчёт до пятницы.",
        "Как мне изменить пароль?",
        "Какой город является столицей Австралии?",
        "Нажмите на кнопку, чтобы сохранить файл на компьютере.",
        "Цены на дома в этом году выросли на 10 %.",
        "Учёные обнаружили в тропическом лесу новый вид лягушек.",
        "Кто написал эту книгу и когда она была издана?",
    ),
}

Embed = Callable[[Sequence[str]], Floats]  # texts in, one unit vector a row out


def find_directions(*embeds: Embed) -> Floats:
    """The directions that tell the languages apart: (languages - 1, width), orthonormal rows.

    Each of ``embeds`` (passages, questions) adds how far each language's mean lies from the mean of all.
    """
    deviations = []
    for embed in embeds:
        means = np.stack([embed(sentences).mean(axis=0) for sentences in SENTENCES.values()])
        deviations.append(means - means.mean(axis=0))
    _, _, found = np.linalg.svd(np.concatenate(deviations).astype(np.float64), full_matrices=False)
    directions = found[: len(SENTENCES) - 1]
    # A direction and its opposite serve alike; the largest part is made positive, to have one answer.
    largest = np.abs(directions).argmax(axis=1)[:, None]
    directions *= np.sign(np.take_along_axis(directions, largest, axis=1))
    return directions.astype(np.float32)


@cache
def stored_directions() -> Floats:
    """The directions as stored, read once. Raises `SettingsError` if the file is missing or damaged."""
    try:
        directions: Floats = np.load(FILE, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(str(error)) from error
    if directions.shape != (len(SENTENCES) - 1, DIM) or directions.dtype != np.float32:
        raise _damaged(f"it holds {directions.dtype} of shape {directions.shape}")
    directions.setflags(write=False)
    return directions


def without_language(vectors: Floats, directions: Floats) -> Floats:
    """Unit vectors (n, width) without their parts along the directions, of length 1 again."""
    along: Floats = vectors @ directions.T
    rest: Floats = vectors - along @ directions
    rest /= np.maximum(np.linalg.norm(rest, axis=1, keepdims=True), _SMALLEST_NORM)
    return rest


def _damaged(reason: str) -> SettingsError:
    return SettingsError(f"{FILE.name} of the e5 embedder cannot be read ({reason}): reinstall callboard")


def _write() -> None:
    """Find the directions by the installed model and store them."""
    from pipelines.documents.embedders.e5 import E5Embedder  # which imports this module

    embedder = E5Embedder()
    np.save(FILE, find_directions(embedder._raw_passages, embedder._raw_queries))


if __name__ == "__main__":
    _write()
