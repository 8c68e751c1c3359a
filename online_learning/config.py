"""The learner's settings that are not about people: the recipe. Frozen; no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from online_learning.algorithms.ppo import PPOConfig


@dataclass(frozen=True, slots=True)
class LearnerConfig:
    """One update: what it reads, how far it goes, when it stops."""

    algorithm: str = "ppo"
    rank: int = 16
    lora_alpha: int = 32
    learning_rate: float = 5e-4
    value_learning_rate: float = 1e-2
    weight_decay: float = 0.0
    epochs: int = 4
    batch_size: int = 32
    rows_per_update: int = 256
    """Rows an update draws from the window: the fresh ones, then a random share of the older."""
    max_kl_prox: float = 0.5
    """An update stops early when KL(prox || current), in nats over acts, is past this."""
    grad_clip: float = 1.0
    min_ess_share: float = 0.1
    """Below this share of effective rows the window is too far from the policy: only fresh rows are used."""
    baseline: float | None = -0.5
    """What a reply is expected to earn. A number: the same for all; None: V(state) of the value head."""
    reward_scale: float = 2.0
    """Rewards are multiplied by this before learning, so that a plain thumb (0.5 by the shipped rules) is 1."""
    gamma: float = 1.0
    gae_lambda: float = 0.95
    text_epochs: int = 2
    """Epochs over generated replies; they cost a hundred times an act."""
    text_batch_size: int = 4
    text_rows_per_update: int = 64
    text_learning_rate: float = 2e-4
    text_rank: int = 8
    loss: PPOConfig = field(default_factory=PPOConfig)
    rescore_tolerance: float = 1e-3
    """A row whose stored log-probability is further off is refused and counted (invariant 1; 1e-4 is what one machine
    in fp32 keeps, the rest is room for another device)."""
    holdout_rows: int = 600
    """Newest held-out rated rows that the gate looks at."""
    keep_checkpoints: int = 5
