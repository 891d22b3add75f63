"""Bytes, FLOPs and exchanges of one rank in a decode step and in a prompt's pass. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.budget.launches import Launches, decode_launches, pass_launches
from benchmarks.budget.weights import Part, RankWeights, Size, rank_weights
from segue.cache.layout import DTYPE_BYTES, CacheLayout, Unit
from segue.cache.parts import layout_of_rank
from segue.model.cache_layout import cache_layout
from segue.model.config import LayerKind, ModelConfig
from segue.model.weights.draft_tokens import share_of
from segue.parallel.group import TWO_STEP_BYTES
from segue.parallel.rank import Rank

CHUNK_TOKENS = 8192
"""The most prompt tokens in a pass."""
_LOGIT_BYTES = 4
_DRAWS = 200
"""The number of random routings, for the mean of the fullest group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankModel:
    """The first rank of a worker."""

    whole: ModelConfig
    rank: Rank
    weights: RankWeights
    layout: CacheLayout
    """The rank's part of pages and slots."""
    dtype: str
    """Of activations."""

    @classmethod
    def of(
        cls,
        config: ModelConfig,
        rank: Rank,
        *,
        dtype: str,
        page_tokens: int,
        mtp: bool = True,
        kv_dtype: str = "",
    ) -> RankModel:
        """`kv_dtype`: of keys and values; `dtype` if it is empty. Raises InvalidConfig if the model
        cannot be split so."""
        mtp = mtp and config.num_mtp_layers > 0
        layout = cache_layout(
            config,
            model_id="budget",
            page_tokens=page_tokens,
            dtype=dtype,
            kv_dtype=kv_dtype or dtype,
            with_mtp=mtp,
        )
        return cls(
            whole=config,
            rank=rank,
            weights=rank_weights(config, rank, dtype=dtype, mtp=mtp),
            layout=layout_of_rank(layout, rank),
            dtype=dtype,
        )

    def kv_bytes(self, *, draft: bool) -> int:
        """Bytes of a token, in the trunk's layers or in the draft layer."""
        fields = self.layout.of_unit(Unit.PAGE)
        is_draft = [field.layer >= self.whole.num_layers for field in fields]
        wanted = [f.unit_bytes for f, it_is in zip(fields, is_draft, strict=True) if it_is == draft]
        return sum(wanted) // self.layout.page_tokens

    def context_bytes(self, num_tokens: int, num_slots: int) -> int:
        pages = self.layout.num_pages_for(num_tokens) * self.layout.page_bytes
        return pages + num_slots * self.layout.slot_bytes


@dataclass(frozen=True, slots=True)
class Item:
    """Part of a pass that has its own limit: the slower of its bytes and its FLOPs."""

    name: str
    num_bytes: float
    flops: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    items: tuple[Item, ...]
    is_step: bool
    """Of decoding; otherwise a prompt's passes."""
    launches: Launches
    num_sums: int
    """Over the ranks."""
    num_gathers: int
    sum_bytes: float
    """The bytes that a rank receives in all exchanges together."""

    @property
    def num_bytes(self) -> float:
        return sum(item.num_bytes for item in self.items)

    @property
    def flops(self) -> float:
        return sum(item.flops for item in self.items)


def decode_work(model: RankModel, *, batch: int, num_drafts: int, context: int) -> Work:
    """One step of `batch` sequences: drafts, and the pass that verifies them."""
    sizes, tokens = model.weights.sizes, batch * (num_drafts + 1)
    verify = _pass_items(
        model,
        tokens,
        head_rows=tokens,
        read_tokens=batch * context,
        pairs=tokens * context,
        num_states=batch + tokens,
    )
    draft = sizes[Part.DRAFT] + model.weights.draft_head
    routed = sizes[Part.DRAFT_EXPERTS]
    reads = batch * context * model.kv_bytes(draft=True)
    drafts = [
        _products("drafts", draft, batch),
        _experts("drafts' experts", model, routed, batch),
        Item("drafts' keys and values", reads, _pair_flops(model, 1) * batch * context),
    ]
    if num_drafts:
        verify += [Item(i.name, i.num_bytes * num_drafts, i.flops * num_drafts) for i in drafts]
    return Work(
        items=tuple(verify),
        is_step=True,
        launches=decode_launches(model.weights, batch=batch, num_drafts=num_drafts),
        num_sums=_num_sums(model, 1) + (2 * num_drafts if model.rank.count > 1 else 0),
        num_gathers=(1 + num_drafts) * (model.rank.count > 1),
        sum_bytes=_received(model, tokens, tokens) + num_drafts * _received_draft(model, batch),
    )


def prefill_work(model: RankModel, *, num_tokens: int, resident: int) -> Work:
    """A prompt of one sequence: `num_tokens` after `resident` tokens whose pages are there."""
    num_passes = -(-num_tokens // CHUNK_TOKENS)
    items: list[Item] = []
    launches, received = Launches(), 0.0
    for number in range(num_passes):
        start = resident + number * CHUNK_TOKENS
        tokens = min(CHUNK_TOKENS, resident + num_tokens - start)
        pairs = tokens * start + tokens * (tokens + 1) / 2
        items += _pass_items(
            model, tokens, head_rows=1, read_tokens=start, pairs=pairs, num_states=2
        )
        launches += pass_launches(model.weights, tokens)
        received += _received(model, tokens, 1)
    return Work(
        items=tuple(_merged(items)),
        is_step=False,
        launches=launches,
        num_sums=_num_sums(model, num_passes),
        num_gathers=num_passes * (model.rank.count > 1),
        sum_bytes=received,
    )


def experts_hit(num_experts: int, per_token: int, num_tokens: int, groups: int) -> float:
    """Experts that a pass reads, of those in the fullest group, if tokens choose independently and
    evenly."""
    if groups == 1:
        return num_experts * (1 - (1 - per_token / num_experts) ** num_tokens)
    if num_tokens * per_token >= 8 * num_experts:
        return num_experts / groups
    draw, width, total = random.Random(0), num_experts // groups, 0
    for _ in range(_DRAWS):
        hit = {e for _ in range(num_tokens) for e in draw.sample(range(num_experts), per_token)}
        counts = [0] * groups
        for expert in hit:
            counts[expert // width] += 1
        total += max(counts)
    return total / _DRAWS


def _pass_items(
    model: RankModel,
    tokens: int,
    *,
    head_rows: int,
    read_tokens: int,
    pairs: float,
    num_states: int,
) -> list[Item]:
    """Of the trunk. `read_tokens`: earlier ones, whose keys and values are read. `pairs`: of a
    token and one that it attends to. `num_states`: read and written."""
    sizes, own = model.weights.sizes, model.weights.own
    num_attention = own.layer_types.count(LayerKind.ATTENTION)
    num_gdn = own.layer_types.count(LayerKind.GDN)
    kv_bytes = (read_tokens + tokens) * model.kv_bytes(draft=False)
    # Decay, the state times a key, the outer product added, the state times a query.
    delta_flops = 7 * own.gdn.num_v_heads * own.gdn.k_dim * own.gdn.v_dim * num_gdn
    items = [
        _products("layers", sizes[Part.LAYERS], tokens),
        _experts("routed experts", model, sizes[Part.EXPERTS], tokens),
        Item("keys and values", kv_bytes, _pair_flops(model, num_attention) * pairs),
        Item("states", num_states * model.layout.slot_bytes, delta_flops * tokens),
        _products("head", model.weights.head, head_rows),
    ]
    if sizes[Part.DRAFT].num_bytes:
        items.append(_products("draft layer's keys and values", _stored_part(model), tokens))
    return items


def _products(name: str, size: Size, tokens: int) -> Item:
    return Item(name, size.num_bytes, 2 * size.parameters * tokens)


def _experts(name: str, model: RankModel, one_each: Size, tokens: int) -> Item:
    """`one_each`: one expert in each layer."""
    moe = model.whole.moe
    if moe is None:
        return Item(name, 0, 0)
    groups = model.rank.expert_groups
    hit = experts_hit(moe.num_experts, moe.experts_per_token, tokens, groups)
    visits = moe.experts_per_token * tokens / groups
    return Item(name, one_each.num_bytes * hit, 2 * one_each.parameters * visits)


def _stored_part(model: RankModel) -> Size:
    """The weights that fill the draft layer's pages: the joined input, keys and values."""
    own, hidden = model.weights.own.attention, model.whole.hidden_size
    itemsize = DTYPE_BYTES[model.dtype]
    parameters = 2 * hidden * hidden + 2 * own.num_kv_heads * own.head_dim * hidden
    return Size(parameters * itemsize, parameters)


def _pair_flops(model: RankModel, num_layers: int) -> int:
    own = model.weights.own.attention
    return 4 * own.num_heads * own.head_dim * num_layers


def _num_sums(model: RankModel, num_passes: int) -> int:
    """Two outputs of each layer."""
    return 2 * model.whole.num_layers * num_passes if model.rank.count > 1 else 0


def _received(model: RankModel, tokens: int, head_rows: int) -> float:
    """Bytes that a rank receives from the others: outputs of layers, columns of logits."""
    count, itemsize = model.rank.count, DTYPE_BYTES[model.dtype]
    of_layer = itemsize * tokens * model.whole.hidden_size
    # Large sums are added up in two steps.
    copies = 2 * (count - 1) / count if count > 2 and of_layer >= TWO_STEP_BYTES else count - 1
    logits = head_rows * len(model.weights.own.head_tokens)
    outputs = 2 * model.whole.num_layers * of_layer
    return copies * outputs + (count - 1) * _LOGIT_BYTES * logits


def _received_draft(model: RankModel, batch: int) -> float:
    others, itemsize = model.rank.count - 1, DTYPE_BYTES[model.dtype]
    own = model.weights.own
    tokens = own.draft_tokens
    logits = len(own.head_tokens) if tokens is None else sum(map(len, share_of(tokens, model.rank)))
    outputs = 2 * model.whole.hidden_size
    return others * batch * (itemsize * outputs + _LOGIT_BYTES * logits)


def _merged(items: list[Item]) -> Iterator[Item]:
    """Items of the same name are added up."""
    for name in dict.fromkeys(item.name for item in items):
        same = [item for item in items if item.name == name]
        yield Item(name, sum(i.num_bytes for i in same), sum(i.flops for i in same))
