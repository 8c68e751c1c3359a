"""Trust region policy optimisation over acts (arXiv 1502.05477): the natural step on the adapter's parameters.

    maximise    L(theta) = mean(w min(pi_prox / mu, importance_cap) (pi / pi_prox) A) - KL terms + entropy
    subject to  mean KL(pi_before || pi) <= max_kl

1. g is the gradient of -L, F the Fisher matrix: the Hessian of that KL where the step starts. The KL over acts is exact,
   so F v is one more backward pass through its gradient (Pearlmutter 1994); F itself is never made;
2. conjugate gradient solves (F + damping) x = -g;
3. x is scaled to sqrt(2 max_kl / x F x): the quadratic model's edge of the trust region;
4. the step is shortened until the true KL is inside, and the true gain a fair share of what g promised; else undone.

A > 0 raises the chosen act's probability and A < 0 lowers it; A = 0 moves nothing. No clip: the region is the bound,
and it holds for all rows together, so one row may move far.

**How a step-taking algorithm fits in.** `trpo` is a loss like the others: its policy part can be followed by any
optimiser, its value part has to be. `trpo_step` moves the policy's parameters itself, so it needs to evaluate the same
rows at several weights: instead of `LossInputs` it gets a function that makes them. `STEPS` holds such steps by name,
and the learner asks it first:

    own_step = STEPS.get(config.algorithm)
    moved = own_step(inputs_fn, policy_parameters, config.loss) if own_step else {}
    out = ALGORITHMS[config.algorithm](inputs_fn(), config.loss)
    out.loss.backward(inputs=value_parameters if own_step else None)
    optimizer.step()                                   # leaves parameters without a gradient where they are

`inputs_fn` must be a pure function of the weights: no dropout, the same rows each time. Give it all rows of an update
at once: the trust region is per step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from online_learning.algorithms.terms import (
    act_regulariser,
    ess_share,
    mean_over_rows,
    outputs,
    refuse_text,
    truncated_importance,
    value_error,
)
from online_learning.algorithms.types import LossInputs, LossOutputs, gather_chosen, kl_over_acts
from online_learning.config import TRPOConfig

InputsFn = Callable[[], LossInputs]
"""The rows evaluated at the parameters' present values."""


def trpo(inputs: LossInputs, config: TRPOConfig) -> LossOutputs:
    """The unconstrained objective, to be minimised, and the value error."""
    refuse_text(inputs)
    objective, metrics = _objective(inputs, config)
    value_loss = value_error(inputs)
    return outputs(objective + config.value_coef * value_loss, metrics | {"value_loss": value_loss})


def trpo_step(inputs_fn: InputsFn, parameters: Sequence[Tensor], config: TRPOConfig) -> dict[str, Tensor]:
    """Move `parameters` in place by one natural step, or leave them as they are. Returns metrics of the step.

    `trust_kl` is mean KL(before || after) in nats and at most `max_kl`; `gain` is how much the objective fell, `promised`
    what the gradient foresaw for the whole step; `step_share` is the share of the step that was kept, 0 if none was;
    `cg_residual` is |residual| / |gradient|.
    """
    # Fused attention has no second derivative; the plain one does.
    with sdpa_kernel(SDPBackend.MATH):
        inputs = inputs_fn()
        refuse_text(inputs)
        before_B_A = inputs.act_logprobs_B_A.detach()
        objective, _ = _objective(inputs, config)
        gradient_P = flat_gradient(objective, parameters, retain_graph=True)
        kl = _trust_kl(before_B_A, inputs, config)
        fisher = fisher_product(kl, parameters, config.damping)
        direction_P, residual = conjugate_gradient(fisher, -gradient_P, config.cg_iterations, config.cg_tolerance)
        curvature = direction_P @ fisher(direction_P)
    # a zero gradient gives a zero direction, and 0 / 0
    step_P = direction_P * (2 * config.max_kl / curvature.clamp(min=torch.finfo(curvature.dtype).tiny)).sqrt()
    return {
        "cg_residual": residual,
        **line_search(inputs_fn, parameters, step_P, gradient_P, before_B_A, objective.detach(), config),
    }


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], target_P: Tensor, iterations: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """(x, |residual| / |target|) with product(x) = target, for a symmetric positive definite product.

    Exact after as many iterations as the matrix has different eigenvalues (Hestenes and Stiefel 1952).
    """
    solution_P, residual_P = torch.zeros_like(target_P), target_P.clone()
    search_P, square = residual_P.clone(), residual_P @ residual_P
    start_square = square.clamp(min=torch.finfo(square.dtype).tiny)
    for _ in range(iterations):
        if square <= tolerance * start_square:
            break
        product_P = product(search_P)
        length = square / (search_P @ product_P)
        solution_P = solution_P + length * search_P
        residual_P = residual_P - length * product_P
        previous, square = square, residual_P @ residual_P
        search_P = residual_P + square / previous * search_P
    return solution_P, (square / start_square).sqrt()


def fisher_product(kl: Tensor, parameters: Sequence[Tensor], damping: float) -> Callable[[Tensor], Tensor]:
    """v -> (H + damping) v, with H the Hessian of `kl` in `parameters`; both are flat vectors [P].

    H is the Fisher matrix where `kl` is KL(here || here), and there alone is it sure to be positive semi-definite.
    """
    slope_P = flat_gradient(kl, parameters, create_graph=True)

    def product(vector_P: Tensor) -> Tensor:
        return flat_gradient(slope_P @ vector_P, parameters, retain_graph=True) + damping * vector_P

    return product


def flat_gradient(
    value: Tensor, parameters: Sequence[Tensor], *, create_graph: bool = False, retain_graph: bool | None = None
) -> Tensor:
    """The gradient as one vector [P]; 0 for a parameter that `value` does not depend on."""
    gradients = torch.autograd.grad(
        value, parameters, create_graph=create_graph, retain_graph=retain_graph, materialize_grads=True
    )
    return torch.cat([gradient.reshape(-1) for gradient in gradients])


@torch.no_grad()
def line_search(
    inputs_fn: InputsFn,
    parameters: Sequence[Tensor],
    step_P: Tensor,
    gradient_P: Tensor,
    before_B_A: Tensor,
    objective: Tensor,
    config: TRPOConfig,
) -> dict[str, Tensor]:
    """Set the parameters to the longest of the shortened steps that keeps both promises, or back to where they were."""
    start = [parameter.clone() for parameter in parameters]
    promised, zero = -(gradient_P @ step_P), objective.new_zeros(())
    for attempt in range(config.max_backtracks + 1):
        share = config.backtrack**attempt
        _place(parameters, start, share * step_P)
        inputs = inputs_fn()
        gain = objective - _objective(inputs, config)[0]
        kl = _trust_kl(before_B_A, inputs, config)
        # written so that NaN refuses
        if gain > config.accept_ratio * share * promised and kl <= config.max_kl:
            return {"trust_kl": kl, "gain": gain, "promised": promised, "step_share": zero + share}
    _place(parameters, start, torch.zeros_like(step_P))
    return {"trust_kl": zero, "gain": zero, "promised": promised, "step_share": zero}


def _place(parameters: Sequence[Tensor], start: Sequence[Tensor], step_P: Tensor) -> None:
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, origin, part in zip(parameters, start, torch.split(step_P, sizes), strict=True):
        parameter.copy_(origin + part.view_as(origin))


def _objective(inputs: LossInputs, config: TRPOConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """The surrogate and the regulariser, to be minimised."""
    limit = config.max_log_ratio
    prox_B = gather_chosen(inputs.prox_logprobs_B_A, inputs.chosen_B)
    log_ratio_B = gather_chosen(inputs.act_logprobs_B_A, inputs.chosen_B) - prox_B
    ratio_B = log_ratio_B.clamp(-limit, limit).exp()
    importance_B = truncated_importance(prox_B, inputs.mu_logprob_B, config.importance_cap, limit)
    policy_loss = -mean_over_rows(inputs.weights_B * importance_B * ratio_B * inputs.advantages_B)
    regulariser, metrics = act_regulariser(inputs, config)
    return policy_loss + regulariser, metrics | {
        "policy_loss": policy_loss,
        "ratio_mean": mean_over_rows(ratio_B),
        "importance_mean": mean_over_rows(importance_B),
        "ess": ess_share(inputs.weights_B * importance_B),
    }


def _trust_kl(before_B_A: Tensor, inputs: LossInputs, config: TRPOConfig) -> Tensor:
    """Mean KL(before || now) over acts; every row counts alike, whatever its weight."""
    return mean_over_rows(
        kl_over_acts(before_B_A, inputs.act_logprobs_B_A, inputs.legal_mask_B_A, config.max_log_ratio)
    )
