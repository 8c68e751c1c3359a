"""The learner's settings that are not about people: the recipe. Frozen; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal


@dataclass(frozen=True, slots=True)
class ActTerms:
    """What every algorithm's loss holds besides its own term: distances over acts, and the width of an exponent."""

    kl_champion_coef: float = 0.0
    """Pull towards the policy now serving."""
    kl_start_coef: float = 0.1
    """Weaker pull towards the fresh install: keeps thirty small steps from becoming one long slide."""
    entropy_coef: float = 0.0
    """Reward for staying undecided; the temperature already explores."""
    max_log_ratio: float = 20.0
    """Log-ratios are clamped to +- this before exp: finite in float32, and far outside every clip."""

    def __post_init__(self) -> None:
        _at_least_zero(self, "kl_champion_coef", "kl_start_coef")
        _above_zero(self, "max_log_ratio")


def _above_zero(config: ActTerms, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name}: expected > 0, got {getattr(config, name)!r}")


def _at_least_zero(config: ActTerms, *names: str) -> None:
    for name in names:
        if not getattr(config, name) >= 0:
            raise ValueError(f"{name}: expected >= 0, got {getattr(config, name)!r}")


def _between_zero_and_one(config: ActTerms, *names: str) -> None:
    for name in names:
        if not 0 < getattr(config, name) < 1:
            raise ValueError(f"{name}: expected inside 0..1, got {getattr(config, name)!r}")


@dataclass(frozen=True, slots=True)
class PPOConfig(ActTerms):
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
    value_coef: float = 0.5
    value_clip: float = 0.0
    """>0: V may move this far from its value at the start of the update (needs `prox_values_B`). 0: plain MSE."""

    def __post_init__(self) -> None:
        ActTerms.__post_init__(self)
        _above_zero(self, "clip_low", "clip_high", "text_clip_low", "text_clip_high", "importance_cap")
        _at_least_zero(self, "positive_importance_floor", "text_coef", "value_coef")
        if not self.dual_clip > 1 + max(self.clip_high, self.text_clip_high):
            raise ValueError(f"dual_clip: expected > 1 + clip_high, got {self.dual_clip!r}")
        if not 0 < self.text_band[0] <= 1 <= self.text_band[1]:
            raise ValueError(f"text_band: expected (low <= 1, high >= 1), got {self.text_band!r}")


@dataclass(frozen=True, slots=True)
class A2CConfig(ActTerms):
    """Advantage actor-critic: no clip, one gradient a row."""

    importance_cap: float = 2.0
    """Truncates pi / mu of replayed rows."""
    value_coef: float = 0.5

    def __post_init__(self) -> None:
        ActTerms.__post_init__(self)
        _above_zero(self, "importance_cap")
        _at_least_zero(self, "value_coef")


@dataclass(frozen=True, slots=True)
class ReinforceConfig(ActTerms):
    """Monte Carlo policy gradient; it makes its own advantage from the returns."""

    baseline: Literal["rows", "value"] = "rows"
    """What a return is compared with. rows: the mean return of the minibatch's *other* rows; value: V(state)."""
    importance_cap: float = 2.0
    """Truncates pi / mu of replayed rows."""
    value_coef: float = 0.5

    def __post_init__(self) -> None:
        ActTerms.__post_init__(self)
        _above_zero(self, "importance_cap")
        _at_least_zero(self, "value_coef")
        if self.baseline not in {"rows", "value"}:
            raise ValueError(f"baseline: expected rows or value, got {self.baseline!r}")


@dataclass(frozen=True, slots=True)
class TRPOConfig(ActTerms):
    """The natural step and its trust region."""

    max_kl: float = 0.02
    """Radius of the trust region of one step: mean KL(before || after) over acts, in nats."""
    damping: float = 0.01
    """Added to the Fisher matrix's diagonal. Needed: a new adapter's down projection has no gradient at all."""
    cg_iterations: int = 10
    cg_tolerance: float = 1e-8
    """Conjugate gradient stops where |residual|^2 has fallen to this share of |gradient|^2."""
    backtrack: float = 0.5
    """Each refused step is shortened to this share."""
    max_backtracks: int = 10
    accept_ratio: float = 0.1
    """A step is kept when it gains at least this share of what the gradient promised."""
    importance_cap: float = 2.0
    """Truncates pi_prox / mu of replayed rows."""
    value_coef: float = 0.5

    def __post_init__(self) -> None:
        ActTerms.__post_init__(self)
        _above_zero(self, "max_kl", "damping", "cg_iterations", "importance_cap")
        _at_least_zero(self, "cg_tolerance", "max_backtracks", "value_coef")
        _between_zero_and_one(self, "backtrack", "accept_ratio")


@dataclass(frozen=True, slots=True)
class ILQLConfig(ActTerms):
    """Implicit Q-learning over acts. The policy is already tied to the start by `beta`: no second pull."""

    kl_start_coef: float = 0.0
    gamma: float = 0.99
    """Discount from one decision of a conversation to the next."""
    expectile: float = 0.7
    """0.5: V is the mean of Q under the data; towards 1: the largest Q that the data show."""
    conservative_coef: float = 0.1
    """Weight of the term that pushes Q down at acts that were not taken."""
    beta: float = 4.0
    """The policy learned is proportional to pi_start * exp(beta Q)."""
    value_coef: float = 1.0
    policy_coef: float = 1.0

    def __post_init__(self) -> None:
        ActTerms.__post_init__(self)
        _between_zero_and_one(self, "expectile")
        _at_least_zero(self, "conservative_coef", "beta", "value_coef", "policy_coef")
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma: expected 0..1, got {self.gamma!r}")


@dataclass(frozen=True, slots=True)
class ImitationConfig(ActTerms):
    """Supervised on labels, filtered imitation elsewhere."""

    threshold: float = 0.0
    """A choice is imitated when its return is above this."""
    label_coef: float = 1.0
    """Weight of a labelled row beside an imitated choice; 0: labels are not looked at."""

    def __post_init__(self) -> None:
        ActTerms.__post_init__(self)
        _at_least_zero(self, "label_coef")


@dataclass(frozen=True, slots=True)
class KTOConfig(ActTerms):
    """Kahneman-Tversky optimisation. The reference is the start: no second pull towards it."""

    kl_start_coef: float = 0.0
    beta: float = 0.1
    """How soon a gain over the reference stops counting: risk aversion in both directions."""
    desirable_coef: float = 1.0
    undesirable_coef: float = 1.0
    """The paper keeps (desirable_coef * ups) : (undesirable_coef * downs) between 1:1 and 4:3."""
    threshold: float = 0.0
    """A choice is desirable when its return is above this."""

    def __post_init__(self) -> None:
        ActTerms.__post_init__(self)
        _above_zero(self, "beta")
        _at_least_zero(self, "desirable_coef", "undesirable_coef")


@dataclass(frozen=True, slots=True)
class LikelihoodConfig(ActTerms):
    """The thumb modelled: how often people press up when the act is right, and when it is wrong."""

    kl_start_coef: float = 0.0
    """The fit is already tied to the start by `LearnerConfig.ridge`."""
    belief_temperature: float = 0.1
    """Divides scores where the policy says how probable it is that an act is right."""
    p_right: float = 0.9
    """P(up | the act was right)."""
    p_wrong: float = 0.15
    """P(up | the act was wrong)."""
    estimate_from_rows: int = 128
    """With so many rows the two numbers are estimated anew in each update; 0: never."""
    by_person: bool = True
    """Whether the estimate tells people who press at random from the others: then their rows count by how probable it is
    that they do not (`raters`)."""

    def __post_init__(self) -> None:
        ActTerms.__post_init__(self)
        _above_zero(self, "belief_temperature")
        _at_least_zero(self, "estimate_from_rows")
        _between_zero_and_one(self, "p_right", "p_wrong")
        if not self.p_wrong < self.p_right:
            raise ValueError(f"p_wrong: expected below p_right ({self.p_right!r}), got {self.p_wrong!r}")


LOSS_CONFIGS: Mapping[str, type[ActTerms]] = {
    "ppo": PPOConfig,
    "a2c": A2CConfig,
    "reinforce": ReinforceConfig,
    "trpo": TRPOConfig,
    "ilql": ILQLConfig,
    "imitation": ImitationConfig,
    "kto": KTOConfig,
    "likelihood": LikelihoodConfig,
}
"""The config that each algorithm takes, by the algorithm's name."""


PEFT_METHODS = ("lora", "rslora", "dora")
"""What one server can serve many versions of. IA3 and prefix tuning are other tuners to PEFT: they cannot be hung beside a
home's LoRA versions, and prefixes are the same for all rows of a batch."""


@dataclass(frozen=True, slots=True)
class LearnerConfig:
    """One update: what it reads, how far it goes, when it stops."""

    algorithm: str = "ppo"
    layers: str = "head"
    """What of the encoder LoRA changes. `head`: a linear map of the embedding, of full rank; texts are embedded once and
    a pass over a thousand rows costs what one row costs otherwise. `all`: all linear layers besides (see `DEEP`)."""
    peft: str = "lora"
    """How adapters change a layer: one of PEFT_METHODS. What each is worth stands in docs/benchmarks.md."""
    rank: int = 16
    lora_alpha: int = 32
    learning_rate: float = 2e-4
    value_learning_rate: float = 1e-2
    """Of V, and of the heads of `ilql`."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's, over acts."""
    weight_decay: float = 0.0
    ridge: float = 0.0
    """Precision of a Gaussian prior on the head's weights around nothing learned. Its part in the loss falls with the
    number of rows, as a prior's does; weight decay would not."""
    ridge_errors: float = 0.05
    """Of a modelled thumb: the ridge holds in full where so many right answers or more get a thumb down, and in proportion
    less where fewer do (to a third at least), since such thumbs can be taken at their word. 0: always in full."""
    ridge_rows: int = 1000
    """And in full up to so many rows, beyond them in proportion less: a few thumbs say little however true they are."""
    epochs: int = 3
    batch_size: int = 128
    rows_per_update: int = 2048
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
    text_pass_tokens: int = 640
    """Tokens, padding included, of which a pass keeps what its gradient needs (SmolLM2-135M in fp32: 2.5 MB each). A
    minibatch with more goes through in several, of which all but the last are computed again for their gradient."""
    text_remembered_tokens: int = 12288
    """Prompt tokens of an update's rows whose keys and values are kept between its passes."""
    text_learning_rate: float = 2e-4
    text_rank: int = 8
    text_adapts_prompt: bool = False
    """Whether the adapter also changes how prompts are read. Then nothing of a prompt can be kept between versions or
    passes (an update takes 3 times as long), but servers that know only plain LoRA (vLLM) can use it."""
    words_weight: float = 1.0
    """Weight of the likelihood of operators' own words beside PPO over generated replies; 0: they teach nothing. Where an
    update has no generated reply it makes no difference: Adam's steps do not depend on a loss's scale."""
    words_rows_per_update: int = 32
    """Newest ones that an update learns from."""
    words_per_conversation: int = 3
    words_known_nll: float = 0.5
    """Words that surprise the policy less than this, nats a token in the mean, do not teach: shown in every update, they would
    be learned by heart. Should they be forgotten, they teach again."""
    text_dtype: Literal["fp32", "bf16"] = "fp32"
    """In what passes with gradient over generated text are computed; scoring without gradient always is in fp32."""
    text_checkpointing: bool = False
    """A minibatch's replies go through one at a time and are computed again for their gradient, instead of all kept."""
    loss: ActTerms = field(default_factory=PPOConfig)
    """Of the type that `algorithm` takes."""
    text_loss: PPOConfig = field(default_factory=PPOConfig)
    """Generated text is learned by PPO, whatever the acts are learned by."""
    rescore_tolerance: float = 1e-4
    """A row whose stored log-probability is further off, in nats, is refused and counted (invariant 1; fp32. Seen between
    batches of one and of 128 rows: 2e-5)."""
    text_slack: float = 0.0
    """Added to that for generated text: what another process that wrote it, in another precision, may be off by, nats."""
    holdout_rows: int = 600
    """Newest held-out rated rows that the gate looks at."""
    keep_checkpoints: int = 5

    def __post_init__(self) -> None:
        if self.peft not in PEFT_METHODS:
            raise ValueError(f"peft: expected one of {', '.join(PEFT_METHODS)}, got {self.peft!r}")
        if self.algorithm not in LOSS_CONFIGS:
            raise ValueError(f"algorithm: expected one of {', '.join(LOSS_CONFIGS)}, got {self.algorithm!r}")
        if not isinstance(self.loss, LOSS_CONFIGS[self.algorithm]):
            expected = LOSS_CONFIGS[self.algorithm].__name__
            raise ValueError(f"loss: expected {expected} for {self.algorithm}, got {type(self.loss).__name__}")  # noqa: TRY004


_MAP = LearnerConfig(
    algorithm="likelihood",
    loss=LikelihoodConfig(),
    learning_rate=1e-3,
    betas=(0.9, 0.95),
    ridge=15.0,
    epochs=5,
    batch_size=8192,
    rows_per_update=8192,
    max_kl_prox=0.05,
)
"""Five steps over all rows of the window: from update to update they stay at the maximum. The first few, when a step goes
furthest, stop earlier: the gate refuses what moved too far from the champion, and a refused update has to begin again."""

RECIPES: Mapping[str, LearnerConfig] = {
    "ppo": LearnerConfig(),
    "a2c": LearnerConfig(algorithm="a2c", loss=A2CConfig()),
    "reinforce": LearnerConfig(algorithm="reinforce", loss=ReinforceConfig()),
    "trpo": LearnerConfig(algorithm="trpo", loss=TRPOConfig(), batch_size=4096, epochs=1),
    "ilql": LearnerConfig(algorithm="ilql", loss=ILQLConfig(), value_learning_rate=3e-3),
    "imitation": LearnerConfig(algorithm="imitation", loss=ImitationConfig()),
    "kto": LearnerConfig(algorithm="kto", loss=KTOConfig()),
    "likelihood": _MAP,
}
"""What the ladder compares. TRPO's region is of a step, so its step is over all rows."""


def recipe(algorithm: str, layers: str = "head") -> LearnerConfig:
    """An algorithm's settings; for all linear layers with fewer rows and larger steps. Raises KeyError."""
    head = RECIPES[algorithm]
    if layers == "head":
        return head
    return replace(head, layers=layers, learning_rate=3e-4, epochs=2, batch_size=32, rows_per_update=256)


DEEP = recipe("ppo", "all")
"""All linear layers, by PPO."""
