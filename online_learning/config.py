"""The learner's settings that are not about people: the recipe. Frozen; no torch."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PPOConfig:
    """Hyperparameters of the loss; the optimiser's are elsewhere."""

    clip_low: float = 0.2
    """The act ratio has no gradient below 1 - this for A < 0."""
    clip_high: float = 0.2
    """... nor above 1 + this for A > 0. A wider upper side (arXiv 2503.14476) made no difference here."""
    dual_clip: float = 3.0
    """Largest loss of a row with A < 0, in units of |A|. inf turns the bound off."""
    importance_cap: float = 2.0
    """Truncates pi_prox / mu of replayed rows."""
    positive_importance_floor: float = 0.0
    """Smallest pi_prox / mu of a row with A > 0. 1: a good act is imitated in full even where the policy has lost it
    (tapered off-policy REINFORCE, arXiv 2503.14286). 0: plain importance weights."""
    text_clip_low: float = 0.2
    text_clip_high: float = 0.28
    """The same clip for the ratio of each generated token, apart from the act's."""
    text_coef: float = 1.0
    """Weight of the token loss beside the act loss."""
    text_band: tuple[float, float] = (0.5, 2.0)
    """Replayed text is dropped when the geometric mean of its tokens' pi_prox / mu leaves this band: a product of
    many ratios cannot be mended by truncating each."""
    kl_champion_coef: float = 0.0
    """Pull towards the policy now serving."""
    kl_start_coef: float = 0.1
    """Weaker pull towards the fresh install: keeps thirty small steps from becoming one long slide."""
    entropy_coef: float = 0.0
    """Reward for staying undecided; the temperature already explores."""
    value_coef: float = 0.5
    value_clip: float = 0.0
    """>0: V may move this far from its value at the start of the update (needs `prox_values_B`). 0: plain MSE."""
    max_log_ratio: float = 20.0
    """Log-ratios are clamped to +- this before exp: finite in float32, and far outside every clip."""

    def __post_init__(self) -> None:
        for name in ("clip_low", "clip_high", "text_clip_low", "text_clip_high", "importance_cap", "max_log_ratio"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected > 0, got {getattr(self, name)!r}")
        for name in ("positive_importance_floor", "text_coef", "kl_champion_coef", "kl_start_coef", "value_coef"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: expected >= 0, got {getattr(self, name)!r}")
        if not self.dual_clip > 1 + max(self.clip_high, self.text_clip_high):
            raise ValueError(f"dual_clip: expected > 1 + clip_high, got {self.dual_clip!r}")
        if not 0 < self.text_band[0] <= 1 <= self.text_band[1]:
            raise ValueError(f"text_band: expected (low <= 1, high >= 1), got {self.text_band!r}")


@dataclass(frozen=True, slots=True)
class LearnerConfig:
    """One update: what it reads, how far it goes, when it stops."""

    algorithm: str = "ppo"
    rank: int = 16
    lora_alpha: int = 32
    learning_rate: float = 3e-4
    value_learning_rate: float = 1e-2
    weight_decay: float = 0.0
    epochs: int = 2
    batch_size: int = 32
    rows_per_update: int = 256
    """Rows an update draws from the window: the fresh ones, then a random share of the older."""
    max_kl_prox: float = 0.5
    """An update stops early when KL(prox || current), in nats over acts, is past this."""
    grad_clip: float = 1.0
    baseline: float | None = -0.5
    """What a reply is expected to earn. A number: the same for all; None: V(state) of the value head."""
    reward_scale: float = 2.0
    """Rewards are multiplied by this before learning, so that a plain thumb (0.5 by the shipped rules) is 1."""
    gamma: float = 1.0
    gae_lambda: float = 0.95
    text_epochs: int = 2
    """Epochs over generated replies; they cost a hundred times an act."""
    text_batch_size: int = 4
    text_rows_per_update: int = 48
    text_remembered_tokens: int = 12288
    """Prompt tokens of an update's rows whose keys and values are kept between its passes."""
    text_learning_rate: float = 2e-4
    text_rank: int = 8
    text_adapts_prompt: bool = False
    """Whether the adapter also changes how prompts are read. Then nothing of a prompt can be kept between versions or
    passes (an update takes 3 times as long), but servers that know only plain LoRA (vLLM) can use it."""
    loss: PPOConfig = field(default_factory=PPOConfig)
    rescore_tolerance: float = 1e-4
    """A row whose stored log-probability is further off, in nats, is refused and counted (invariant 1; fp32. Seen between
    batches of one and of 128 rows: 2e-5)."""
    holdout_rows: int = 600
    """Newest held-out rated rows that the gate looks at."""
    keep_checkpoints: int = 5
