"""One update on tensors: rows in, new weights and metrics out. Knows no store, folder or gate.

1. the policy as it stands (prox = champion) and the fresh install score the rows once, without gradient;
2. epochs of minibatches over the acts (encoder part, and the causal part where it scores acts);
3. epochs over generated text and over operators' own words, if any (causal part);
4. an epoch that moved past the KL bound is the last.

Shapes: B rows of a minibatch, A legal acts, T generated tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from peft import LoraConfig
from torch import Tensor, nn

from bot.conversation import Decision, Generated
from bot.policy.adapted import BASE, AdaptedModel, lora_config
from bot.policy.cases import Cases
from bot.policy.causal import CausalPart
from bot.policy.encoder import whitening
from bot.policy.model import ActRow, PolicyModel, Scored, ValueHead
from online_learning.advantages import Credit
from online_learning.algorithms import ALGORITHMS, STEPS, InputsFn
from online_learning.algorithms.q_heads import QHeads
from online_learning.algorithms.types import LossInputs, LossOutputs, added, gather_chosen
from online_learning.config import ActTerms, LearnerConfig
from online_learning.hearing import as_heard, ridge_share
from online_learning.minibatches import batches, mean_metrics, unpadded
from online_learning.rated_rows import RatedRows, rated_rows
from online_learning.reach import Reach, shorten
from online_learning.text_losses import TextLoss, replies_loss, unlearned, words_loss
from online_learning.text_passes import generated_of, give_back, stored_or_scored
from online_learning.words import of_words

CURRENT = "current"
"""Adapter name of the policy being trained."""
SCORING_BATCH = 64
START_CACHE = 16384
"""Rows whose start distribution is kept in memory (about 100 bytes each)."""
Progress = Callable[[str, int, int], None]
"""(what, done, of how many)."""


def act_row(decision: Decision) -> ActRow:
    """What scoring needs of a stored decision."""
    return ActRow(decision.query_ids, decision.legal, decision.temperature, decision.prompt)


class Learner:
    """The trainable policy: parts with a CURRENT adapter each, a value head (and those of `ilql`), their optimizers."""

    def __init__(self, model: PolicyModel, config: LearnerConfig, writer: CausalPart | None = None) -> None:
        self.model = model
        self.config = config
        self.writer = writer
        self.value = ValueHead(model.encoder.width).to(model.encoder.device)
        self.q_heads: QHeads | None = None
        """What `ilql` alone has."""
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self._start: dict[str, Tensor] = {}
        lora = model.encoder.lora(config.rank, config.lora_alpha, body=config.layers == "all", method=config.peft)
        self.model.encoder.model.create(CURRENT, lora, trainable=True)
        if writer is not None:
            self._adapt(writer)
        self.reset_optimizers()

    def attach_writer(self, writer: CausalPart) -> None:
        """Train a causal part as well, from now on."""
        self.writer = writer
        self._adapt(writer)
        self.optimizers["text"] = self._text_optimizer(writer)

    def _adapt(self, writer: CausalPart) -> None:
        """Prompts read when rows are checked are not read again when they teach."""
        writer.model.create(CURRENT, self._text_lora(writer), trainable=True)
        writer.remember(self.config.text_remembered_tokens)

    def reset_optimizers(self) -> None:
        """Forget momentum, and what Q-learning has found: the weights were replaced from outside."""
        config = self.config
        if config.algorithm == "ilql":
            self.q_heads = QHeads(self.model.encoder.width).to(self.model.encoder.device)
        groups = [
            {"params": self.model.encoder.model.trainable(CURRENT), "lr": config.learning_rate},
            {"params": list(self.value.parameters()), "lr": config.value_learning_rate, "weight_decay": 0.0},
        ]
        if self.model.causal is not None:
            causal = self.model.causal.model.trainable(CURRENT)
            groups.append({"params": causal, "lr": config.text_learning_rate})
        if self.q_heads is not None:  # Last, so that the moments of another algorithm's checkpoint still belong.
            q = [parameter for parameter in self.q_heads.parameters() if parameter.requires_grad]
            groups.append({"params": q, "lr": config.value_learning_rate, "weight_decay": 0.0})
        acts = torch.optim.AdamW(groups, weight_decay=config.weight_decay, betas=config.betas)
        self.optimizers = {"acts": acts}
        if self.writer is not None:
            self.optimizers["text"] = self._text_optimizer(self.writer)

    def _text_lora(self, writer: CausalPart) -> LoraConfig:
        rank, invocation = self.config.text_rank, () if self.config.text_adapts_prompt else writer.header_ids
        return lora_config(rank, 2 * rank, invocation=invocation)

    def _text_optimizer(self, writer: CausalPart) -> torch.optim.Optimizer:
        parameters, config = writer.model.trainable(CURRENT), self.config
        return torch.optim.AdamW(parameters, lr=config.text_learning_rate, weight_decay=config.weight_decay)

    # --- scoring without gradient -------------------------------------------------------------------------------------
    @torch.no_grad()
    def score(self, decisions: Sequence[Decision], adapter: str, *, leave_out_own: bool = False) -> list[Tensor]:
        """Log-probabilities [A] of each decision's legal acts; rows that taught are not their own evidence if asked."""
        found: dict[int, Tensor] = {}
        for batch, scored in self._scored(decisions, adapter, leave_out_own):
            found |= dict(zip(batch, unpadded(scored), strict=True))
        return [found[i] for i in range(len(decisions))]

    @torch.no_grad()
    def values(self, decisions: Sequence[Decision]) -> dict[str, float]:
        """V by decision id, under the current weights."""
        found: dict[str, float] = {}
        for batch, scored in self._scored(decisions, CURRENT):
            values = self.value(scored.states_B_D).tolist()
            found |= {decisions[i].id: value for i, value in zip(batch, values, strict=True)}
        return found

    def _scored(
        self, decisions: Sequence[Decision], adapter: str, leave_out_own: bool = False
    ) -> Iterator[tuple[list[int], Scored]]:
        """Positions and scores, batch by batch; rows of like length together, so that little is padded."""
        order = sorted(range(len(decisions)), key=lambda i: len(decisions[i].query_ids))
        for start in range(0, len(order), SCORING_BATCH):
            batch = order[start : start + SCORING_BATCH]
            rows = [act_row(decisions[i]) for i in batch]
            yield batch, self.model.score(rows, [adapter] * len(batch), leave_out_own=leave_out_own)

    def rows(self, earned: Sequence[Credit]) -> RatedRows:
        """The rows under the policy as it stands and under the fresh install's."""
        decisions = [credit.decision for credit in earned]
        prepared = self.model.prepare([act_row(decision) for decision in decisions])
        with torch.no_grad():
            prox = unpadded(self.model.score(prepared, [CURRENT] * len(earned), leave_out_own=True))
        return rated_rows(prepared, earned, prox, self.start_scores(decisions))

    def start_scores(self, decisions: Sequence[Decision]) -> list[Tensor]:
        """Log-probabilities [A] under the fresh install's policy, which never changes: each row is scored once."""
        missing = [decision for decision in decisions if decision.id not in self._start]
        fresh = self.score(missing, BASE)
        self._start.update((decision.id, logprobs_A) for decision, logprobs_A in zip(missing, fresh, strict=True))
        found = [self._start[decision.id] for decision in decisions]
        while len(self._start) > START_CACHE:
            self._start.pop(next(iter(self._start)))
        return found

    # --- weights ------------------------------------------------------------------------------------------------------
    def snapshot(self) -> dict[str, Any]:
        """Everything an update changes, to come back to after a refusal."""
        return {
            "parts": {name: part.weights(CURRENT) for name, part in self.adapted.items()},
            "cases": self.model.cases.get(CURRENT),
            "heads": {name: copy.deepcopy(head.state_dict()) for name, head in self.heads.items()},
            "optimizers": {name: copy.deepcopy(opt.state_dict()) for name, opt in self.optimizers.items()},
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Undo everything since `snapshot`."""
        for name, weights in snapshot["parts"].items():
            self.adapted[name].set_weights(CURRENT, weights)
        self.remember(snapshot["cases"])
        for name, state in snapshot["heads"].items():
            self.heads[name].load_state_dict(state)
        for name, state in snapshot["optimizers"].items():
            self.optimizers[name].load_state_dict(state)

    def remember(self, cases: Cases | None) -> None:
        """Make these the cases of the policy being trained; None: it has none."""
        if cases is None:
            self.model.cases.pop(CURRENT, None)
        else:
            self.model.cases[CURRENT] = cases.to(self.model.encoder.device)

    @property
    def adapted(self) -> dict[str, AdaptedModel]:
        """The parts that are trained, by name."""
        parts = {"encoder": self.model.encoder.model}
        return parts | ({"causal": self.writer.model} if self.writer is not None else {})

    @property
    def heads(self) -> dict[str, nn.Module]:
        """What learns beside the parts, by name."""
        heads: dict[str, nn.Module] = {"value": self.value}
        return heads | ({"q": self.q_heads} if self.q_heads is not None else {})

    def trained(self) -> list[Tensor]:
        """Every number that training changes."""
        parts = [tensor for part in self.adapted.values() for tensor in part.parameters(CURRENT).values()]
        return [*parts, *(tensor for head in self.heads.values() for tensor in head.parameters())]

    def is_finite(self) -> bool:
        """Whether every trained number is one."""
        return all(bool(torch.isfinite(tensor).all()) for tensor in self.trained())

    # --- training -----------------------------------------------------------------------------------------------------
    def update(
        self,
        earned: Sequence[Credit],
        rng: np.random.Generator,
        progress: Progress,
        version: str = "",
        words: Sequence[Generated] = (),
        reach: Reach | None = None,
    ) -> dict[str, float]:
        """Train on the rows in place. Returns the mean metrics of the last epoch, `epochs` done among them.

        `version`: the one whose weights these are; what its rows store of generated text is not computed again. `words`:
        operators' own (`demonstrations`); they need no log-probabilities of whoever wrote them. `reach`: how far choices may
        move; None: as far as the steps go.
        """
        self._lay_ground([credit.decision for credit in earned])
        origin = [tensor.detach().clone() for tensor in self._policy_parameters()]
        metrics = self._update_acts(earned, rng, progress)
        if reach is not None:
            metrics["kept_step"] = shorten(self._policy_parameters(), origin, partial(self._within, reach))
        written = [credit for credit in earned if credit.decision.generated is not None]
        written = of_words(written[-self.config.text_rows_per_update :])
        if (written or words) and self.writer is not None:
            metrics |= self._update_text(written, words, rng, progress, version)
            self.writer.forget()
            give_back()
        return metrics

    def _update_acts(self, earned: Sequence[Credit], rng: np.random.Generator, progress: Progress) -> dict[str, float]:
        rows = self.rows(earned)
        rows, loss, heard = as_heard(rows, self.config.loss)
        lengths = [len(row.decision.query_ids) for row in earned]
        means: dict[str, float] = {}
        for epoch in range(self.config.epochs):
            seen: list[dict[str, Tensor]] = []
            for batch in batches(lengths, self.config.batch_size, rng):
                some = rows if len(batch) == len(rows) else rows.take(batch)
                seen.append(self._step_acts(partial(self._act_inputs, some), loss, len(rows)))
            progress("acts", epoch + 1, self.config.epochs)
            means = heard | mean_metrics(seen) | {"epochs": float(epoch + 1)}
            if means.get("kl_prox", 0.0) > self.config.max_kl_prox:
                break
        return means

    def _within(self, reach: Reach) -> bool:
        """Whether the gate would let the policy as it stands move so far."""
        now = self.score(reach.recent, CURRENT, leave_out_own=True)
        return reach.holds(now, self.start_scores(reach.recent))

    def _lay_ground(self, decisions: Sequence[Decision]) -> None:
        """While the head has learned nothing, its way in is made from the acts' own texts: see `whitening`."""
        head = self.model.encoder.model.head(CURRENT)
        if head is None or bool(head.up.any()):
            return
        texts = sorted({text for decision in decisions for act in decision.legal for text in act.texts})
        if len(texts) > 1:
            with torch.no_grad():
                head.down.copy_(whitening(self.model.encoder.embed_texts(texts)))

    def _act_inputs(self, rows: RatedRows) -> LossInputs:
        scored = self.model.score(rows.prepared, [CURRENT] * len(rows), leave_out_own=True)
        return LossInputs(
            act_logprobs_B_A=scored.logprobs_B_A,
            legal_mask_B_A=scored.mask_B_A,
            chosen_B=rows.chosen_N,
            mu_logprob_B=gather_chosen(rows.mu_logprobs_N_A, rows.chosen_N),
            prox_logprobs_B_A=rows.prox_logprobs_N_A,
            champion_logprobs_B_A=rows.prox_logprobs_N_A,
            start_logprobs_B_A=rows.start_logprobs_N_A,
            advantages_B=rows.advantages_N,
            returns_B=rows.returns_N,
            values_B=self.value(scored.states_B_D),
            weights_B=rows.weights_N,
            temperatures_B=rows.prepared.temperature_B_1.squeeze(1),
            certain_B=rows.certain_N,
            **self._q_fields(rows, scored),
        )

    def _q_fields(self, rows: RatedRows, scored: Scored) -> Mapping[str, Tensor]:
        """What `ilql` reads besides. A reply's return is all it earns: there is no later decision to look ahead to."""
        if self.q_heads is None:
            return {}
        fields: Mapping[str, Tensor] = self.q_heads(
            scored.states_B_D, rows.prepared.table.means_K_D[rows.prepared.place_B_A]
        )
        return fields

    def _update_text(
        self,
        earned: Sequence[Credit],
        words: Sequence[Generated],
        rng: np.random.Generator,
        progress: Progress,
        version: str,
    ) -> dict[str, float]:
        """A step takes a minibatch of generated replies and one of operators' own words, while there are."""
        means: dict[str, float] = {}
        writer, config = self._need_writer(), self.config
        words, num_known = unlearned(writer, words, CURRENT, config)
        told: list[tuple[TextLoss, list[int]]] = []
        if earned:
            told.append((self._replies(earned, version), [len(generated_of(row.decision).token_ids) for row in earned]))
        if words:
            told.append((words_loss(writer, words, CURRENT, config), [len(text.token_ids) for text in words]))
        for epoch in range(self.config.text_epochs if told else 0):
            seen: list[dict[str, Tensor]] = []
            drawn = [batches(lengths, self.config.text_batch_size, rng) for _, lengths in told]
            for step in zip_longest(*drawn):
                parts = [loss(batch) for (loss, _), batch in zip(told, step, strict=True) if batch]
                seen.append(self._descend("text", added(parts)))
            progress("text", epoch + 1, self.config.text_epochs)
            means = mean_metrics(seen)
            if means.get("text_approx_kl", 0.0) > self.config.max_kl_prox:
                break
        means |= {"words_known": float(num_known)}
        return {name: value for name, value in means.items() if name.startswith(("text_", "words_"))}

    def _replies(self, earned: Sequence[Credit], version: str) -> TextLoss:
        """PPO over generated replies; the act terms are constants here, they had their own epochs."""
        rows, writer = self.rows(earned), self._need_writer()
        decisions = [credit.decision for credit in earned]
        prox = stored_or_scored(writer, decisions, version, CURRENT, self.config)

        @torch.no_grad()
        def acts(batch: Sequence[int]) -> LossInputs:
            return self._act_inputs(rows.take(batch))

        return replies_loss(writer, [generated_of(row) for row in decisions], prox, acts, CURRENT, self.config)

    def _step_acts(self, inputs_fn: InputsFn, loss: ActTerms, num_rows: int) -> dict[str, Tensor]:
        """One minibatch over acts. Where the algorithm moves the policy itself, the optimiser is left the value head."""
        own_step = STEPS.get(self.config.algorithm)
        moved = own_step(inputs_fn, self._policy_parameters(), loss) if own_step else {}
        out = ALGORITHMS[self.config.algorithm](inputs_fn(), loss)
        head = self.model.encoder.model.head(CURRENT)
        if head is not None and self.config.ridge:  # Minus the log of its Gaussian prior, but for a constant.
            ridge = self.config.ridge * ridge_share(loss, num_rows, self.config)
            out = LossOutputs(out.loss + ridge / (2 * num_rows) * head.up.square().sum(), out.metrics)
        metrics = self._descend("acts", out, list(self.value.parameters()) if own_step else None) | moved
        if self.q_heads is not None:
            self.q_heads.follow()
        return metrics

    def _policy_parameters(self) -> list[nn.Parameter]:
        """Those that act log-probabilities depend on."""
        parts = filter(None, (self.model.encoder, self.model.causal))
        return [parameter for part in parts for parameter in part.model.trainable(CURRENT)]

    def _descend(self, optimizer: str, out: LossOutputs, only: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        opt = self.optimizers[optimizer]
        opt.zero_grad(set_to_none=True)
        torch.autograd.backward(out.loss, inputs=only)
        parameters = [p for group in opt.param_groups for p in group["params"]]
        self.share_gradients(parameters)
        metrics = dict(out.metrics)
        metrics["grad_norm"] = nn.utils.clip_grad_norm_(parameters, self.config.grad_clip)
        opt.step()
        return metrics

    def share_gradients(self, parameters: Sequence[Tensor]) -> None:
        """One process has nobody to share them with (see `distributed`)."""

    def _need_writer(self) -> CausalPart:
        assert self.writer is not None, "text rows need a causal part"
        return self.writer
