"""The sections of the settings: what each part is told, and which values make sense. Records only; `bot.settings` reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


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
    """Torch threads of the one thread of the server that has several (`compose.build_engine`); 0 leaves torch's choice."""


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
    step_tokens: int = 0
    """Tokens computed in one step: one of each reply in the batch, the rest of prompts; 0: 128 on a CPU, 512 on a GPU."""
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
    words_weight: float = 1.0
    """Weight of what operators wrote themselves beside rated replies where replies are generated; 0: it teaches no words."""
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
class OidcSettings:
    """Signing in with a provider (OpenID Connect), beside local accounts. docs/sign-in.md is the guide."""

    issuer: str = ""
    """The provider's issuer address, as its tokens name it; empty: local accounts only."""
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    """Empty: a public client, which PKCE alone protects."""
    client_secret_file: str = ""
    """A file that holds the secret, in its place."""
    name: str = "your organisation"
    """The sign-in page says: Sign in with NAME."""
    scopes: str = "openid profile email"
    name_claim: str = "email"
    """The claim that becomes the account's name."""
    role_claim: str = "groups"
    """The claim that says what somebody is; dots go into objects (`realm_access.roles`)."""
    admins: tuple[str, ...] = ()
    """Values of `role_claim` that make an admin; the highest role wins."""
    developers: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()

    @property
    def is_on(self) -> bool:
        """Whether there is a provider."""
        return bool(self.issuer)


SECTIONS: Mapping[str, Any] = {
    "policy": PolicySettings,
    "engine": EngineSettings,
    "rollout": RolloutSettings,
    "learn": LearnSettings,
    "limits": LimitSettings,
    "oidc": OidcSettings,
}
RANGES: Mapping[str, tuple[float, float]] = {
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
    "engine.step_tokens": (0, 65536),
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
CHOICES: Mapping[str, tuple[str, ...]] = {
    "policy.parts": ("encoder", "encoder+causal"),
    "engine.dtype": ("auto", "float32", "bfloat16"),
    "engine.backend": ("transformers", "vllm", "scripted"),
    "learn.algorithm": ("ppo", "a2c", "reinforce", "trpo", "ilql", "imitation", "kto", "likelihood"),
    "learn.layers": ("head", "all"),
    "learn.dtype": ("auto", "fp32", "bf16"),
    "learn.peft": ("lora", "rslora", "dora"),
    "model_fetch": ("pip", "direct"),
}
