"""Which messages are refused for their language. All sentences here are our own."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bot.language import known_language

FOREIGN = {
    "de": ("Wo ist meine neue Karte geblieben?", "Ich habe mein Passwort vergessen",
           "Warum wurde meine Zahlung abgelehnt?", "Wie lange dauert eine Überweisung?"),
    "es": ("¿Dónde está mi tarjeta nueva?", "He olvidado mi contraseña del banco",
           "Quiero cancelar una transferencia por favor", "me han robado la tarjeta ayer"),
    "fr": ("Où est ma nouvelle carte bancaire ?", "J'ai oublié mon mot de passe",
           "Je voudrais fermer mon compte", "combien de temps prend un virement"),
    "it": ("Dove si trova la mia carta?", "Ho dimenticato la password del conto",
           "Vorrei chiudere il mio conto corrente", "perché il pagamento è stato rifiutato"),
    "pt": ("Onde está o meu cartão novo?", "Esqueci a minha senha do aplicativo",
           "Quero fechar a minha conta", "quanto tempo demora uma transferência"),
    "nl": ("Waar is mijn nieuwe kaart gebleven?", "Ik ben mijn wachtwoord vergeten",
           "Ik wil graag mijn rekening sluiten", "waarom is mijn betaling geweigerd"),
    "pl": ("Gdzie jest moja nowa karta?", "Zapomniałem hasła do mojego konta", "Chcę zamknąć moje konto bankowe"),
    "tr": ("Yeni kartım nerede kaldı acaba?", "Şifremi unuttum ne yapmam gerekiyor",
           "Hesabımı kapatmak istiyorum lütfen"),
    "zh": ("我的新卡在哪里?", "我想关闭我的账户"),
    "ja": ("新しいカードはどこですか", "パスワードを忘れました"),
    "ru": ("Где моя новая карта?", "Я забыл пароль от приложения", "Хочу закрыть свой счёт"),
    "ar": ("أين بطاقتي الجديدة؟", "نسيت كلمة المرور الخاصة بي"),
}  # fmt: skip
ENGLISH = (
    "Where is my card?", "card not here", "pin pls", "top up failed", "hi", "ok thx", "atm ate my card lol",
    "IBAN DE89 3704 0044 0532 0130 00 wrong?", "My name is Jörg Müller and I live in Köln",
    "does café Zürich charge a fee", "exchange rate EUR GBP", "why r u charging me", "refund???", "SEPA vs SWIFT",
    "I paid at Pão de Açúcar in São Paulo and was charged twice", "What is a virement?", "wat is goin on wit my acct",
    "transfer to Maria da Silva failed", "direct debit", "señor, my card is gone", "report stolen card", "yes",
)  # fmt: skip
ONLINE = Path(os.environ.get("BANKDESK", Path(__file__).parents[3] / "shared/data/bankdesk")) / "online.jsonl"


def test_more_than_nine_in_ten_foreign_sentences_are_noticed() -> None:
    """Forty sentences in twelve languages."""
    sentences = [sentence for group in FOREIGN.values() for sentence in group]
    noticed = [sentence for sentence in sentences if not known_language(sentence, ("en",))]
    assert len(sentences) == 39
    assert len(noticed) > 0.9 * len(sentences)


@pytest.mark.parametrize("text", ENGLISH)
def test_short_sloppy_and_mixed_english_is_let_through(text: str) -> None:
    """A doubt counts as known: refusing a customer's own language is the worse mistake."""
    assert known_language(text, ("en",))


@pytest.mark.parametrize(
    "text", ["", "12345", "😀😀", "https://example.com/que-pasa-con-mi-tarjeta", "maria.perez@correo.example", "?!"]
)
def test_what_has_no_language_is_let_through(text: str) -> None:
    """Numbers, addresses, signs."""
    assert known_language(text, ("en",))


@pytest.mark.parametrize("text", ["привет", "你好", "مرحبا", "γεια", "안녕"])
def test_one_word_in_another_script_is_enough(text: str) -> None:
    """Letters tell at once."""
    assert not known_language(text, ("en",))


@pytest.mark.parametrize("text", ["Hola", "Guten Tag", "Wo ist meine Karte?"])
def test_a_language_that_the_domain_names_is_known(text: str) -> None:
    """`languages` decides, in any order."""
    assert known_language(text, ("en", "de", "es"))
    assert known_language("Где моя карта?", ("ru",))
    assert not known_language("Wo ist meine neue Karte geblieben?", ("es", "en"))


def test_real_questions_to_a_bank_are_not_refused() -> None:
    """Fewer than 2 in 1,000 of the bankdesk questions (PolyAI Banking77, CC BY 4.0)."""
    if not ONLINE.exists():
        pytest.skip(f"no bankdesk data at {ONLINE.parent}: set BANKDESK to its folder")
    texts = [json.loads(line)["text"] for line in ONLINE.read_text().splitlines()]
    refused = [text for text in texts if not known_language(text, ("en",))]
    assert len(refused) < 0.002 * len(texts), refused[:5]
