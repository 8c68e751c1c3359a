"""Tokens, keys, cookies, ids and origins."""

from __future__ import annotations

import hashlib
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bot.conversation import is_holdout
from bot.errors import ConfigError
from bot.identity import (
    KEY_HOLDER,
    SESSION_S,
    Identity,
    IdSource,
    holdout_key,
    home_secret,
    is_allowed_origin,
    is_own_origin,
    operator_key,
)
from bot.wire_errors import Unauthenticated

IDENTITY = Identity(b"s" * 32, "operator-key-for-tests")


def test_a_token_gives_its_person_back() -> None:
    """And only the server that issued it accepts it."""
    token = IDENTITY.person_token("p_1")
    assert IDENTITY.person_of(token) == "p_1"
    with pytest.raises(Unauthenticated):
        Identity(b"t" * 32, "operator-key-for-tests").person_of(token)


@pytest.mark.parametrize("token", ["", ".", "p_1", "p_1.", "p_2." + IDENTITY.person_token("p_1").split(".")[1], "é.ü"])
def test_a_made_up_token_is_refused(token: str) -> None:
    """Without a trace of what would have been right."""
    with pytest.raises(Unauthenticated, match="expected one that this server issued"):
        IDENTITY.person_of(token)


def test_a_session_ends_and_cannot_be_prolonged() -> None:
    """Good until its expiry; the expiry is signed."""
    cookie = IDENTITY.session(1000.0)
    assert IDENTITY.session_of(cookie, 1000.0 + SESSION_S - 1) == (KEY_HOLDER, 0)
    assert IDENTITY.session_of(cookie, 1000.0 + SESSION_S) is None
    expiry, rest = cookie.split(".", 1)
    assert IDENTITY.session_of(f"{int(expiry) + 1}.{rest}", 1000.0) is None


def test_a_new_operator_key_signs_everybody_out() -> None:
    """The key is part of what is signed."""
    other = Identity(b"s" * 32, "another-operator-key")
    assert other.session_of(IDENTITY.session(1000.0), 1000.0) is None


def test_a_persons_token_is_no_session_and_no_key() -> None:
    """Signatures of one purpose are worth nothing for another."""
    token = IDENTITY.person_token("9999999999.ab")
    assert IDENTITY.session_of(token, 1000.0) is None
    assert not IDENTITY.is_operator_key(token)
    assert not IDENTITY.is_operator_key("")
    assert IDENTITY.is_operator_key("operator-key-for-tests")


def test_who_is_held_out_cannot_be_told_from_the_id(tmp_path: Path) -> None:
    """The plain hash of the id, which people could compute, agrees as often as chance does; the key agrees always."""
    key, ids = holdout_key(tmp_path, None), [f"c_{number:024x}" for number in range(4000)]
    held_out = [is_holdout(name, key, 0.5) for name in ids]

    def agreement(guesses: list[bool]) -> float:
        return sum(guess == truth for guess, truth in zip(guesses, held_out, strict=True)) / len(ids)

    plain = [int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) < 0.5 * 2**32 for name in ids]
    others = [is_holdout(name, holdout_key(tmp_path / "other", None), 0.5) for name in ids]
    # Chance is 0.5 with a standard error of sqrt(0.25 / 4000) = 0.008: five of them.
    assert agreement(plain) == pytest.approx(0.5, abs=0.04)
    assert agreement(others) == pytest.approx(0.5, abs=0.04)
    assert agreement([is_holdout(name, holdout_key(tmp_path, None), 0.5) for name in ids]) == 1.0


def test_the_share_held_out_is_the_share_asked_for() -> None:
    """15 %: a standard error of sqrt(.15 * .85 / 4000) = 0.0056."""
    held_out = sum(is_holdout(f"c{number}", b"k" * 32, 0.15) for number in range(4000))
    assert held_out / 4000 == pytest.approx(0.15, abs=0.028)
    assert not any(is_holdout(f"c{number}", b"k" * 32, 0.0) for number in range(100))


def test_a_seeded_run_holds_out_the_same_conversations_in_every_home(tmp_path: Path) -> None:
    """Or a seed would not reproduce what the learner sees."""
    assert holdout_key(tmp_path / "a", 3) == holdout_key(tmp_path / "b", 3)
    assert len({holdout_key(tmp_path, 3), holdout_key(tmp_path, 4), holdout_key(tmp_path, None)}) == 3


def test_keys_are_made_once_and_private(tmp_path: Path) -> None:
    """0600; the same after a restart; different in another home."""
    first, second = home_secret(tmp_path), operator_key(tmp_path)
    assert (home_secret(tmp_path), operator_key(tmp_path)) == (first, second)
    assert home_secret(tmp_path / "other") != first
    for name in ("secret", "operator.key"):
        assert stat.S_IMODE((tmp_path / "keys" / name).stat().st_mode) == 0o600
    assert sorted(path.name for path in (tmp_path / "keys").iterdir()) == ["operator.key", "secret"]


def test_processes_that_start_together_agree_on_the_secret(tmp_path: Path) -> None:
    """The first one wins, the others read it."""
    with ThreadPoolExecutor(16) as pool:
        secrets = set(pool.map(lambda _: home_secret(tmp_path), range(64)))
    assert len(secrets) == 1


def test_a_damaged_key_file_is_refused_with_its_path(tmp_path: Path) -> None:
    """Instead of signing with nothing."""
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "secret").write_bytes(b"")
    (tmp_path / "keys" / "operator.key").write_text("short")
    with pytest.raises(ConfigError, match=r"secret: expected 32 bytes, got 0"):
        home_secret(tmp_path)
    with pytest.raises(ConfigError, match=r"operator.key: expected at least 16 characters, got 5"):
        operator_key(tmp_path)


def test_a_home_that_cannot_be_written_is_refused_with_its_path(tmp_path: Path) -> None:
    """One clear line."""
    (tmp_path / "home").write_text("a file")
    with pytest.raises(ConfigError, match="keys"):
        home_secret(tmp_path / "home")


def test_ids_reproduce_with_a_seed_and_not_without() -> None:
    """Each kind has its own stream, so drawing more of one does not move another."""
    first, second = IdSource(7), IdSource(7)
    second.message()
    assert first.conversation() == second.conversation()
    assert IdSource(7).person() != IdSource(8).person()
    assert IdSource(7).person() != IdSource(7, epoch=1).person()
    assert IdSource().person() != IdSource().person()
    assert [kind[:2] for kind in (first.person(), first.message(), first.decision())] == ["p_", "m_", "d_"]


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        (None, "127.0.0.1:7860", True),
        ("http://127.0.0.1:7860", "127.0.0.1:7860", True),
        ("http://localhost:7860", "localhost:7860", True),
        ("http://[::1]:7860", "[::1]:7860", True),
        ("https://192.168.1.5", "192.168.1.5", True),
        ("https://shop.example", "127.0.0.1:7860", True),
        ("", "127.0.0.1:7860", False),
        ("null", "127.0.0.1:7860", False),
        ("null", "null", False),
        ("https://evil.example", "127.0.0.1:7860", False),
        ("https://shop.example.evil", "127.0.0.1:7860", False),
        ("https://evilshop.example", "127.0.0.1:7860", False),
        ("http://shop.example", "127.0.0.1:7860", False),
        ("https://shop.example:8443", "127.0.0.1:7860", False),
        ("http://127.0.0.1:7861", "127.0.0.1:7860", False),
        ("http://127.0.0.1.evil.example:7860", "127.0.0.1:7860", False),
        ("http://127.0.0.1:7860@evil.example", "127.0.0.1:7860", False),
        ("http://evil@127.0.0.1:7860", "evil@127.0.0.1:7860", False),
        ("file://127.0.0.1:7860", "127.0.0.1:7860", False),
        ("http://[", "[", False),
        # DNS rebinding: the attacker's name points to us, so Origin and Host agree.
        ("http://evil.example:7860", "evil.example:7860", False),
    ],
)
def test_the_table_of_origins(origin: str | None, host: str, allowed: bool) -> None:
    """Trust goal S2."""
    assert is_allowed_origin(origin, host, named=("https://shop.example",)) is allowed


@pytest.mark.parametrize(
    ("origin", "host", "own"),
    [
        (None, "anything", True),
        ("http://127.0.0.1:7860", "127.0.0.1:7860", True),
        ("http://localhost:7860", "localhost:7860", True),
        # A site that carries the widget may chat, and that is all.
        ("https://shop.example", "127.0.0.1:7860", False),
        ("https://shop.example", "chat.example", False),
        # Behind a proxy that keeps the Host: our own name is the one that is named.
        ("https://shop.example", "shop.example", True),
        ("http://shop.example", "shop.example", False),
        # Behind one that does not: public_url says who we are.
        ("https://chat.example", "127.0.0.1:7860", True),
        ("https://chat.example", "chat.example", True),
        ("http://chat.example", "chat.example", False),
        ("https://chat.example.evil", "127.0.0.1:7860", False),
        ("https://chat.example:8443", "127.0.0.1:7860", False),
        ("null", "null", False),
        ("", "", False),
        ("http://[", "[", False),
        ("http://evil.example:7860", "evil.example:7860", False),
    ],
)
def test_the_staffs_cookie_counts_on_our_own_pages_only(origin: str | None, host: str, own: bool) -> None:
    """The control: the same shop may chat."""
    shop = ("https://shop.example",)
    assert is_own_origin(origin, host, "https://chat.example/", shop) is own
    assert is_allowed_origin("https://shop.example", host, "https://chat.example/", shop)
