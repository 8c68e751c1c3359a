"""Settings: who wins, and one clear line for whatever cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bot.errors import ConfigError
from bot.identity import is_allowed_origin, is_own_origin
from bot.settings import Settings, load_settings, wants_tracebacks


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty home."""
    folder = tmp_path / "a-home"
    folder.mkdir()
    return folder


def load(home: Path, config: str = "", environ: dict[str, str] | None = None, **flags: Any) -> Settings:
    """Settings of a home with this config.yml."""
    if config:
        (home / "config.yml").write_text(config)
    return load_settings({"home": home} | flags, environ or {})


def test_flags_win_over_variables_over_the_file_over_the_profile(home: Path) -> None:
    """Each layer sets one more key; the layers above keep theirs."""
    config = "profile: demo\nport: 1\nlearn: {quorum: 2, update_every: 2}\nhost: file"
    environ = {"REJOINDER_PORT": "3", "REJOINDER_LEARN__QUORUM": "3", "REJOINDER_MODEL": "env"}
    settings = load(home, config, environ, port=4)
    assert (settings.port, settings.model, settings.host) == (4, "env", "file")
    assert (settings.learn.quorum, settings.learn.update_every) == (3, 2)
    assert (settings.learn.settle_s, settings.learn.window) == (3.0, 8192)  # the demo profile; the default


def test_an_ignored_flag_does_not_hide_the_layers_below(home: Path) -> None:
    """argparse gives None for what was not said."""
    assert load(home, "port: 5", port=None, learn={"quorum": None}).port == 5


def test_the_profile_may_come_from_any_layer(home: Path) -> None:
    """And decides the quorum: 10 where real customers are."""
    assert load(home).learn.quorum == 10
    assert load(home, environ={"REJOINDER_PROFILE": "demo"}).learn.quorum == 1


@pytest.mark.parametrize(
    ("config", "environ", "line"),
    [
        ("colour: red", {}, "colour: unknown setting"),
        ("1: a\ncolour: red", {}, "1: unknown setting"),
        ("learn: {speed: 3}", {}, "learn.speed: unknown setting"),
        ("", {"REJOINDER_PROT": "1"}, "prot: unknown setting"),
        ("port: nine", {}, "port: expected int, got 'nine'"),
        ("port: 7860.5", {}, "port: expected int, got 7860.5"),
        ("port: yes", {}, "port: expected int, got True"),
        ("port: 70000", {}, "port: expected 0 to 65535, got 70000"),
        ("host:", {}, "host: expected str, got None"),
        ("host: [a]", {}, "host: expected str"),
        ("seed: .inf", {}, "seed: expected"),
        ("learn: {lockstep: maybe}", {}, "learn.lockstep: expected bool, got 'maybe'"),
        ("learn: 3", {}, "learn: expected a mapping, got 3"),
        ("policy: {temperature: 0}", {}, "policy.temperature: expected 0.0001 to 10, got 0.0"),
        ("policy: {temperature: .nan}", {}, "policy.temperature: expected"),
        ("policy: {text_temperature: 0}", {}, "policy.text_temperature: expected"),
        ("policy: {parts: casual}", {}, "policy.parts: expected one of encoder, encoder.causal, got 'casual'"),
        ("profile: dmeo", {}, "profile: expected one of live, demo, got 'dmeo'"),
        ("profile: [demo]", {}, "profile: expected one of live, demo"),
        ("- a\n- b", {}, "expected a mapping, got list"),
        ("a: [", {}, "expected YAML"),
        ("", {"REJOINDER_LEARN": "5", "REJOINDER_LEARN__QUORUM": "1"}, "REJOINDER_LEARN: expected"),
        ("model_cache: 3", {}, "model_cache: expected Path, got 3"),
    ],
)
def test_what_cannot_be_used_is_refused_by_one_line(
    home: Path, config: str, environ: dict[str, str], line: str
) -> None:
    """It names the key, what was expected and what was got."""
    with pytest.raises(ConfigError, match=line) as refused:
        load(home, config, environ)
    assert "\n" not in str(refused.value)


def test_a_config_that_cannot_be_read_is_refused(home: Path) -> None:
    """A folder in its place, or bytes that are no text."""
    (home / "config.yml").mkdir()
    with pytest.raises(ConfigError, match="expected a readable file"):
        load(home)
    (home / "config.yml").rmdir()
    (home / "config.yml").write_bytes(b"port: \xff\xfe")
    with pytest.raises(ConfigError, match="expected YAML"):
        load(home)


def test_origins_come_as_a_list_or_with_commas(home: Path) -> None:
    """Spaces after commas are not part of an origin."""
    said = load(home, environ={"REJOINDER_ALLOWED_ORIGINS": "https://a.example, https://b.example,"})
    assert said.allowed_origins == ("https://a.example", "https://b.example")
    assert load(home, "allowed_origins: [https://c.example]").allowed_origins == ("https://c.example",)
    assert load(home, environ={"REJOINDER_ALLOWED_ORIGINS": ""}).allowed_origins == ()


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("HTTPS://Shop.Example", "https://shop.example"),
        ("https://shop.example:443", "https://shop.example"),
        ("http://shop.example:80", "http://shop.example"),
        ("https://shop.example:8443", "https://shop.example:8443"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("http://[::1]:7861", "http://[::1]:7861"),
        ("https://shop.example.", "https://shop.example."),  # another origin than without the dot
    ],
)
def test_origins_are_kept_as_browsers_write_them(home: Path, written: str, sent: str) -> None:
    """What a browser sends is let in, and nothing that only looks like it."""
    named = load(home, environ={"REJOINDER_ALLOWED_ORIGINS": written}).allowed_origins
    assert named == (sent,)
    assert is_allowed_origin(sent, "127.0.0.1:7860", named=named)
    host = sent.partition("://")[2]
    near = [f"{sent}.evil.example", f"https://evil.example#{host}", f"https://{host}@evil.example", f"{sent}/", "null"]
    near += [
        f"https://evil-{host}",
        f"{sent}:1",
        f"ftp://{host}",
        f"{sent.removesuffix('.')}." if sent[-1] != "." else sent[:-1],
    ]
    assert [origin for origin in near if is_allowed_origin(origin, "127.0.0.1:7860", named=named)] == []


@pytest.mark.parametrize(
    "written",
    [
        "*", "null", "shop.example", "https://*.example", "https://", "https://shop.example/", "https://shop.example/chat",
        "https://shop.example?x", "https://user@shop.example", "ftp://shop.example", "https://shop.example:port",
        "https://shop .example", "https://[", "https://-\u00fc-.example\u3002\u3002",
    ],
)  # fmt: skip
def test_what_is_no_origin_is_refused_at_the_start(home: Path, written: str) -> None:
    """No browser would ever send it: whoever wrote it expects something that does not happen."""
    with pytest.raises(ConfigError, match="allowed_origins: expected"):
        load(home, environ={"REJOINDER_ALLOWED_ORIGINS": written})


def test_an_empty_seed_is_fresh_randomness(home: Path) -> None:
    """A script may unset it by an empty variable."""
    assert load(home, "seed: 3").seed == 3
    assert load(home, "seed: 3", {"REJOINDER_SEED": ""}).seed is None


def test_tracebacks_are_asked_for_by_a_variable() -> None:
    """Which is no setting."""
    assert not wants_tracebacks({"REJOINDER_DEBUG": "0"})
    assert wants_tracebacks({"REJOINDER_DEBUG": "1"})
    assert load_settings({}, {"REJOINDER_DEBUG": "1"}).port == 7860


def test_settings_survive_the_way_to_a_worker(tmp_path: Path) -> None:
    """As plain values that JSON can carry, every section of them."""
    settings = load_settings({"home": tmp_path, "seed": 7, "profile": "demo", "policy": {"num_candidates": 5}}, {})

    assert load_settings(json.loads(json.dumps(settings.as_flags())), {}) == settings


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("https://Bot.Example.com", "https://bot.example.com"),
        ("HTTPS://bot.example.com:443", "https://bot.example.com"),
        ("https://bot.example.com:8443/desk", "https://bot.example.com:8443/desk"),
        ("http://localhost:80", "http://localhost"),
        ("http://[::1]:7860", "http://[::1]:7860"),
        ("https://b\u00fccher.example", "https://xn--bcher-kva.example"),
        ("https://stra\u00dfe.example", "https://xn--strae-oqa.example"),
        ("", ""),
    ],
)
def test_the_public_address_is_kept_as_browsers_write_it(tmp_path: Path, written: str, normal: str) -> None:
    """Else a page of ours would be another's; the control is the address as it was written."""
    settings = load_settings({"home": tmp_path, "public_url": written}, {})
    assert settings.public_url == normal
    origin = "/".join(normal.split("/")[:3])
    if normal:
        assert is_own_origin(origin, "inner:7860", settings.public_url)
        assert is_own_origin(origin, "inner:7860", written) == (written == normal)


@pytest.mark.parametrize("written", ["https://bot.example.com:99999", "https://\u2028.example", "https://a..\u00fc"])
def test_a_public_address_that_browsers_cannot_open_is_refused(tmp_path: Path, written: str) -> None:
    """By one line."""
    with pytest.raises(ConfigError, match="public_url: expected https://HOST"):
        load_settings({"home": tmp_path, "public_url": written}, {})
