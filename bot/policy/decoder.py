"""Our own forward pass of a Llama: many replies of many versions in one pass, over keys and values that stay in place.

Owns the weights as the machine reads them fastest and the cache; knows nothing of requests, prompts or sampling. A pass:

1. all tokens of all replies go through the layers together; only where versions differ are rows told apart;
2. each token writes its keys and values at (slot, position) of the cache that was allocated once;
3. replies that go on by one token attend together, longer pieces of prompts one by one;
4. logits are made of the tokens that something follows, of no others.

A version is its own copy of the linear layers with the adapter merged in fp32 and rounded once, or the base model's with
the adapter beside them. Attention runs over a multiple of 64 positions and products row by row, so in bfloat16 on a CPU a
reply's numbers do not depend on what else is in the pass (measured: bit for bit); on a GPU they do, within rounding. One
thread at a time, except for `prepare`, which touches nothing that runs.

Shapes: N tokens, R tokens with logits, S slots, H key heads, G query heads a key head, P positions, D width of a head,
W width, O and I a layer's outputs and inputs, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bot.errors import AdapterError
from bot.policy.adapted import BASE
from bot.policy.factors import Factors
from bot.policy.graphs import Graphs
from bot.policy.pieces import SPAN, Batch, Piece, whole_spans

ARCHITECTURES = ("llama", "mistral")
"""Of transformers' `model_type`: what this forward pass is equal to. Others go through transformers, one by one."""
STEP_TOKENS = {"cpu": 128, "cuda": 512}
"""Of prompts and replies together: what a pass computes in little more time than one of a few tokens takes."""
PARTS: Mapping[str, tuple[str, ...]] = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""A layer's products: those with the same input are one."""

Linear = Callable[[Tensor], Tensor]
Layers = list[dict[str, Linear]]


def is_supported(config: Any) -> bool:
    """Whether this forward pass is that of the model."""
    plain = not getattr(config, "attention_bias", False) and not getattr(config, "mlp_bias", False)
    whole = getattr(config, "sliding_window", None) is None and config.hidden_act == "silu"
    fixed = (config.rope_parameters or {}).get("rope_type", "default") not in {"dynamic", "longrope"}
    return bool(config.model_type in ARCHITECTURES and plain and whole and fixed)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """`float32`, `bfloat16`, or for `auto` bfloat16 where the machine multiplies it faster (AVX512-BF16, AMX, CUDA)."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
    able = torch.cpu.get_capabilities()
    has_bf16 = (
        torch.cuda.is_bf16_supported() if device.type == "cuda" else able.get("avx512_bf16") or able.get("amx_bf16")
    )
    return torch.bfloat16 if has_bf16 else torch.float32


class Decoder:
    """A Llama with its cache and its versions."""

    def __init__(self, model: Any, *, dtype: torch.dtype, num_slots: int, num_positions: int) -> None:
        config, self.dtype = model.config, dtype
        self._source: nn.Module = model
        self.device: torch.device = model.device
        self.step_tokens = STEP_TOKENS[self.device.type]
        self.num_slots = num_slots
        self.num_positions = -(-min(num_positions, config.max_position_embeddings) // SPAN) * SPAN
        self._num_layers: int = config.num_hidden_layers
        self._heads_kv: int = config.num_key_value_heads
        self._groups: int = config.num_attention_heads // self._heads_kv
        self._head_dim: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._eps: float = config.rms_norm_eps
        self._embedding_V_W = model.get_input_embeddings().weight.detach().to(dtype)
        self._head = _linear(model.get_output_embeddings().weight.detach(), dtype)
        self._norms = [
            (layer.input_layernorm.weight.detach().float(), layer.post_attention_layernorm.weight.detach().float())
            for layer in model.model.layers
        ]
        self._last_norm = model.model.norm.weight.detach().float()
        self._cos_P_D, self._sin_P_D = self._rotary(model)
        self._versions: dict[str, Layers] = {BASE: self.prepare({})}
        self._allocate()
        self._graphs: Graphs[Batch] | None = Graphs(self._forward, self.device) if self.device.type == "cuda" else None

    def _allocate(self) -> None:
        shape = (self._num_layers, self.num_slots, self._heads_kv, self.num_positions, self._head_dim)
        # Zeros, since garbage times an attention of 0 may be NaN. The pages of positions never reached are never touched.
        self._keys = torch.zeros(shape, dtype=self.dtype, device=self.device)
        self._values = torch.zeros(shape, dtype=self.dtype, device=self.device)

    @torch.inference_mode()
    def _rotary(self, model: Any) -> tuple[Tensor, Tensor]:
        """Tables [P, D] such that x * cos + roll(x, D / 2) * sin is the rotated x (arXiv 2104.09864)."""
        positions_1_P = torch.arange(self.num_positions, device=self.device).unsqueeze(0)
        cos, sin = (
            table[0].to(self.dtype)
            for table in model.model.rotary_emb(self._embedding_V_W[:1, None].float(), positions_1_P)
        )
        half = sin.shape[-1] // 2
        return cos, torch.cat((-sin[:, :half], sin[:, half:]), dim=-1)

    # --- versions -------------------------------------------------------------------------------------------------
    @property
    def versions(self) -> set[str]:
        """Those that can be used; BASE always."""
        return set(self._versions)

    @property
    def maps(self) -> dict[str, tuple[int, int]]:
        """The linear maps that a version may adapt -> their outputs and inputs."""
        layers = range(self._num_layers)
        found = [pair for layer in layers for part in PARTS for pair in self._modules(layer, part)]
        return {name: (weight_O_I.shape[0], weight_O_I.shape[1]) for name, weight_O_I in found}

    @torch.inference_mode()
    def prepare(self, factors: Mapping[str, Factors], *, merged: bool = True) -> Layers:
        """The linear layers of a version, by module name -> LoRA factors; in any thread. Raises AdapterError for an
        adapter of what this pass does not adapt."""
        if odd := sorted(set(factors) - set(self.maps)):
            raise AdapterError(f"expected an adapter of the layers' linear maps, got one of {odd[0]}")
        if merged:
            return [{part: self._merged(i, part, factors) for part in PARTS} for i in range(self._num_layers)]
        base = self._versions[BASE]
        return [
            {part: self._beside(base[i][part], i, part, factors) for part in PARTS} for i in range(self._num_layers)
        ]

    def add(self, version: str, layers: Layers) -> None:
        """From now on `version` names these layers."""
        self.drop(version)
        self._versions[version] = layers

    def drop(self, version: str) -> Layers | None:
        """Forget a version; its memory goes with what is returned."""
        if self._graphs is not None:
            self._graphs.drop(version)
        return self._versions.pop(version, None)

    def beside(self, layers: Layers, version: str, *, num_positions: int) -> Decoder:
        """The same weights and one version more, with one slot of its own: for trying a version out in another thread."""
        other = copy.copy(self)
        other._versions = {BASE: self._versions[BASE], version: layers}  # noqa: SLF001
        other._graphs = None  # noqa: SLF001
        other.num_slots, other.num_positions = 1, min(whole_spans(num_positions), self.num_positions)
        other._allocate()  # noqa: SLF001
        return other

    @torch.inference_mode()
    def exact(self, factors: Mapping[str, Factors], version: str, *, num_positions: int) -> Decoder:
        """The model's own weights, with the adapter beside them and nothing rounded or merged: what who trained it computed,
        but for the order of sums. For probes; it holds no copy of a weight. Raises AdapterError, as `prepare` does."""
        other = copy.copy(self)
        other.dtype = torch.float32
        other._embedding_V_W = self._source.get_input_embeddings().weight.detach().float()  # type: ignore[operator]  # noqa: SLF001
        other._head = partial(F.linear, weight=self._source.get_output_embeddings().weight.detach().float())  # type: ignore[operator]  # noqa: SLF001
        other._graphs = None  # noqa: SLF001
        other.num_slots, other.num_positions = 1, min(whole_spans(num_positions), self.num_positions)
        other._cos_P_D, other._sin_P_D = other._rotary(self._source)  # noqa: SLF001
        plain = [{part: self._unmerged(i, part) for part in PARTS} for i in range(self._num_layers)]
        other._versions = {BASE: plain}  # noqa: SLF001
        other._versions[version] = other.prepare(factors, merged=False)  # noqa: SLF001
        other._allocate()  # noqa: SLF001
        return other

    def _unmerged(self, layer: int, part: str) -> Linear:
        weights = [weight_O_I.float() for _, weight_O_I in self._modules(layer, part)]
        return lambda x_N_I: torch.cat([F.linear(x_N_I, weight_O_I) for weight_O_I in weights], dim=-1)

    def _modules(self, layer: int, part: str) -> list[tuple[str, Tensor]]:
        names = [f"model.layers.{layer}.{name}" for name in PARTS[part]]
        modules = [self._source.get_submodule(name) for name in names]
        # PEFT puts its own module in the place of a linear one, which it keeps inside.
        weights: list[Any] = [getattr(module, "base_layer", module).weight for module in modules]
        return [(name, weight.detach()) for name, weight in zip(names, weights, strict=True)]

    def _merged(self, layer: int, part: str, factors: Mapping[str, Factors]) -> Linear:
        weights = []
        for name, weight_O_I in self._modules(layer, part):
            found = factors.get(name)
            if found is not None:
                up, down = found.up.to(self.device), found.down.to(self.device)
                weight_O_I = weight_O_I.float() + found.scale * up @ down  # noqa: PLW2901 - its merged form
            weights.append(weight_O_I)
        return _linear(torch.cat(weights), self.dtype)

    def _beside(self, base: Linear, layer: int, part: str, factors: Mapping[str, Factors]) -> Linear:
        downs, ups = [], []
        for name, weight_O_I in self._modules(layer, part):
            outputs, inputs = weight_O_I.shape
            found = factors.get(name) or Factors(torch.zeros(0, inputs), torch.zeros(outputs, 0), 0.0)
            downs.append(found.down)
            ups.append(found.scale * found.up)
        up_O_R: Tensor = torch.block_diag(*ups).to(self.device, self.dtype)  # type: ignore[no-untyped-call]
        down_R_I = torch.cat(downs).to(self.device, self.dtype)
        return lambda x_N_I: base(x_N_I) + F.linear(F.linear(x_N_I, down_R_I), up_O_R)

    # --- the cache ------------------------------------------------------------------------------------------------
    @torch.inference_mode()
    def read(self, slot: int, start: int, end: int) -> Tensor:
        """A copy [2, L, H, end - start, D] of what a slot holds."""
        return torch.stack((self._keys[:, slot, :, start:end], self._values[:, slot, :, start:end]))

    @torch.inference_mode()
    def write(self, slot: int, start: int, kept: Tensor) -> None:
        """Put a copy back, into any slot at the same positions."""
        end = start + kept.shape[3]
        self._keys[:, slot, :, start:end], self._values[:, slot, :, start:end] = kept[0], kept[1]

    @torch.inference_mode()
    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first positions of one slot into another."""
        for cache in (self._keys, self._values):
            cache[:, target, :, :length] = cache[:, source, :, :length]

    # --- the pass -------------------------------------------------------------------------------------------------
    @torch.inference_mode()
    def run(self, pieces: Sequence[Piece]) -> Tensor:
        """Logits [R, V] in fp32 of the pieces' last tokens, in order."""
        batch = Batch(pieces, self.device, self._groups)
        return self._forward(batch) if self._graphs is None else self._graphs.run(batch)

    def _forward(self, batch: Batch) -> Tensor:
        x_N_W = self._embedding_V_W[
            batch.tokens_N
        ].float()  # The residual stream stays in fp32: it is small, sums are long.
        cos_N_1_D, sin_N_1_D = self._cos_P_D[batch.positions_N, None], self._sin_P_D[batch.positions_N, None]
        num_rotated = self._heads_kv * (self._groups + 1)
        for layer, (before, after) in enumerate(self._norms):
            qkv = self._product(batch, layer, "qkv", self._normed(x_N_W, before))
            qkv_N_X_D = qkv.view(len(qkv), -1, self._head_dim)
            turned = qkv_N_X_D[:, :num_rotated]
            turned = torch.addcmul(turned * cos_N_1_D, turned.roll(self._head_dim // 2, -1), sin_N_1_D)
            self._keys[layer][batch.slots_N, :, batch.positions_N] = turned[:, -self._heads_kv :]
            self._values[layer][batch.slots_N, :, batch.positions_N] = qkv_N_X_D[:, num_rotated:]
            seen = self._attend(batch, layer, turned[:, : -self._heads_kv])
            x_N_W = x_N_W + self._product(batch, layer, "out", seen)
            gate, up = self._product(batch, layer, "gate_up", self._normed(x_N_W, after)).chunk(2, dim=-1)
            x_N_W = x_N_W + self._product(batch, layer, "down", F.silu(gate) * up)
        last_R_W = self._normed(x_N_W[batch.wanted_R], self._last_norm)
        return self._head(last_R_W).float()

    def _normed(self, x_N_W: Tensor, weight_W: Tensor) -> Tensor:
        return F.rms_norm(x_N_W, (x_N_W.shape[-1],), weight_W, self._eps).to(self.dtype)

    def _product(self, batch: Batch, layer: int, part: str, x_N_I: Tensor) -> Tensor:
        if len(batch.groups) == 1:
            return self._versions[batch.groups[0][0]][layer][part](x_N_I)
        return torch.cat([self._versions[name][layer][part](x_N_I[rows]) for name, rows in batch.groups])

    def _attend(self, batch: Batch, layer: int, queries_N_Q_D: Tensor) -> Tensor:
        """What each token sees [N, Q * D] of its slot up to itself."""
        shape = (self._heads_kv, self._groups, self._head_dim)
        queries = queries_N_Q_D.view(-1, *shape)
        if batch.is_plain:
            return self._attend_ones(batch, layer, queries).flatten(1)
        seen = queries.new_empty(len(queries), *shape)
        if batch.num_slots:
            seen[batch.ones_N] = self._attend_ones(batch, layer, queries[batch.ones_S])[batch.slots_N[batch.ones_N]]
        for rows, slot, span, mask_X_P in batch.longer:
            query_H_X_D = queries[rows].permute(1, 2, 0, 3).reshape(self._heads_kv, -1, self._head_dim)
            keys, values = (cache[layer, slot, :, :span] for cache in (self._keys, self._values))
            found = self._weigh(query_H_X_D, keys, values, mask_X_P)
            seen[rows] = found.view(self._heads_kv, self._groups, -1, self._head_dim).permute(2, 0, 1, 3)
        return seen.flatten(1)

    def _attend_ones(self, batch: Batch, layer: int, queries_S_H_G_D: Tensor) -> Tensor:
        """One query token a slot."""
        keys = self._keys[layer, : batch.num_slots, :, : batch.span]
        values = self._values[layer, : batch.num_slots, :, : batch.span]
        return self._weigh(queries_S_H_G_D, keys, values, batch.mask_S_1_1_P)

    def _weigh(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Attention, written out: the fused kernel takes twice as long for few queries a head, and its bits depend on how
        many tokens are read at once."""
        scores = (queries @ keys.transpose(-1, -2)).float()
        weights = torch.add(mask, scores, alpha=self._head_dim**-0.5).softmax(-1)
        seen: Tensor = weights.to(self.dtype) @ values
        return seen


def _linear(weight_O_I: Tensor, dtype: torch.dtype) -> Linear:
    """x -> x @ W.T. In bfloat16 on a CPU the weight is laid out as oneDNN wants it: half the time of `F.linear`, which
    lays it out anew at every call (one token: 49 against 159 us for 960 x 576), and the same bits."""
    weight = weight_O_I.detach().to(dtype)
    kernels = getattr(torch.ops, "mkldnn", None)
    if dtype != torch.bfloat16 or weight.device.type != "cpu" or not hasattr(kernels, "_linear_pointwise"):
        return lambda x_N_I: F.linear(x_N_I, weight)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)  # noqa: SLF001 - what torch.compile itself uses
    product = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001

    def apply(x_N_I: Tensor) -> Tensor:
        # For one row alone oneDNN adds up long sums in another order: it gets company, which costs nothing.
        rows = torch.cat((x_N_I, x_N_I)) if len(x_N_I) == 1 else x_N_I
        out: Tensor = product(rows, packed, None, "none", [], "")
        return out[: len(x_N_I)]

    return apply
