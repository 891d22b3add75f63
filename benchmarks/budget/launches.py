"""The launches of a decode step, counted by the structure of the code. tests/benchmarks/
test_budget_launches.py compares them with an interpreted model."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.budget.facts import MACHINE_GPUS
from benchmarks.budget.weights import RankWeights
from segue.kernels.product.tiling import FEW_ROWS
from segue.model.config import LayerKind
from segue.model.weights.draft_tokens import share_of

_FEW_TOKENS = 32
"""Up to here routing is one kernel, and what lies between a GDN layer's projections two."""
_CHOOSING_TOKENS = 4
_ATTENTION_KERNELS = 5
"""Norm, attention input, two of attention, output gate."""
_GDN_KERNELS, _FEW_GDN_KERNELS = 5, 3
"""Norm, decay, convolution, delta rule, gated norm; norm and the step's two."""
_STORE_KERNELS, _STORE_PRODUCTS = 3, 2
"""The draft layer's keys and values, of every token of a step."""
_JOIN_KERNELS = 2
"""The input of a draft: norms of embedding and hidden state, and of their product."""
_PART_OPERATIONS = 7
"""Where a rank has some of the experts: tiles of the others are emptied, and so is the output."""
_STEP_KERNELS, _DRAFT_KERNELS = 4, 3
"""Of a step that samples from few candidates: it is opened and closed, and a draft is added; each
sample is two."""
_STEP_OPERATIONS, _FIRST_DRAFT_OPERATIONS, _DRAFT_OPERATIONS = 11, 4, 1
"""PyTorch's: embeddings, rotary tables, hidden states from slots and to them."""


@dataclass(frozen=True, slots=True)
class Launches:
    kernels: int = 0
    """Our kernels that are not products."""
    products: int = 0
    """Products of rows with a weight, by our kernels or by a library."""
    operations: int = 0
    """PyTorch's other operations."""

    def __add__(self, other: Launches) -> Launches:
        return Launches(
            self.kernels + other.kernels,
            self.products + other.products,
            self.operations + other.operations,
        )

    def __mul__(self, times: int) -> Launches:
        return Launches(self.kernels * times, self.products * times, self.operations * times)

    @property
    def total(self) -> int:
        return self.kernels + self.products + self.operations


def decode_launches(weights: RankWeights, *, batch: int, num_drafts: int) -> Launches:
    """Of one step: drafts, the verify pass, sampling, acceptance."""
    drafts = _draft(weights, batch) * num_drafts
    if num_drafts:
        drafts += Launches(operations=_FIRST_DRAFT_OPERATIONS)
    num_tokens = batch * (num_drafts + 1)
    finishing = _finishing(weights, "lm_head", num_tokens)
    step = Launches(kernels=_STEP_KERNELS, operations=_STEP_OPERATIONS + finishing)
    return pass_launches(weights, num_tokens) + drafts + step


def pass_launches(weights: RankWeights, num_tokens: int) -> Launches:
    """Of the trunk with head and the draft layer's keys and values, without what a step does
    beside it."""
    config = weights.own
    layers = Launches()
    for number, kind in enumerate(config.layer_types):
        at = f"layers.{number}"
        if kind is LayerKind.ATTENTION:
            layers += _attention(weights, at)
        else:
            kernels = _FEW_GDN_KERNELS if num_tokens <= _FEW_TOKENS else _GDN_KERNELS
            layers += Launches(kernels=kernels) + _products(weights, at, "in_proj", "out_proj")
        layers += _mlp(weights, at, num_tokens)
    # The norm before the head, and the head.
    rest = Launches(kernels=1) + _products(weights, "", "lm_head")
    if config.num_mtp_layers:
        rest += Launches(kernels=_STORE_KERNELS, products=_STORE_PRODUCTS)
    return layers + rest


def sum_launches(num_ranks: int, *, is_step: bool) -> int:
    """Of `segue.parallel.group.Ranks.sum`. A step's rows are read from the other ranks' memory, or
    gathered from those of other machines and added. A prompt's are exchanged, added and gathered,
    except between two ranks."""
    if is_step:
        return 1 if num_ranks <= MACHINE_GPUS else 2
    return 2 if num_ranks == 2 else 3


def _draft(weights: RankWeights, batch: int) -> Launches:
    at = "mtp.layers.0"
    # The norm of attention's input is one of _JOIN_KERNELS, and the norm after the layer is added.
    around = Launches(kernels=_JOIN_KERNELS - 1 + 1 + _DRAFT_KERNELS, operations=_DRAFT_OPERATIONS)
    products = _products(weights, "mtp", "fc") + _draft_head(weights, batch)
    return around + products + _attention(weights, at) + _mlp(weights, at, batch)


def _draft_head(weights: RankWeights, batch: int) -> Launches:
    """Of each run of tokens that may be drafted, the product and its place among all logits."""
    head, tokens = _products(weights, "", "lm_head"), weights.own.draft_tokens
    finishing = Launches(operations=_finishing(weights, "lm_head", batch))
    if tokens is None:
        return head + finishing
    num_parts = len(share_of(tokens, weights.rank))
    # All logits are filled with a low one; the parts are joined before they are spread.
    spread = len(tokens) + 1 + (num_parts > 1)
    return (head + finishing) * num_parts + Launches(operations=spread)


def _attention(weights: RankWeights, at: str) -> Launches:
    return Launches(kernels=_ATTENTION_KERNELS) + _products(weights, at, "qkv_proj", "o_proj")


def _mlp(weights: RankWeights, at: str, num_tokens: int) -> Launches:
    moe = weights.own.moe
    is_part = moe is not None and weights.num_experts_held < moe.num_experts
    part = Launches(operations=_PART_OPERATIONS) if is_part else Launches()
    if moe is not None and num_tokens <= _FEW_TOKENS and _is_mixed(weights, at):
        # The norm and the router; then routing, both products of all experts, their sum. Very few
        # tokens choose in the first product, also where a rank has some of the experts.
        if num_tokens <= _CHOOSING_TOKENS:
            return Launches(kernels=2, products=3, operations=int(is_part))
        return Launches(kernels=3, products=3) + part
    # The norm before it, and SiLU, unless the product does it.
    own = f"{at}.mlp" if weights.own.moe is None else f"{at}.mlp.shared_expert"
    is_joined = weights.num_products.get(f"{own}.gate_up_proj", 1) > 1
    silu = is_joined or _finishing(weights, f"{own}.gate_up_proj", num_tokens)
    around = Launches(kernels=1 + silu) + _products(weights, own, "gate_up_proj", "down_proj")
    if moe is None:
        return around
    # The router and the shared expert's gate; then routing, the experts' products, their sum.
    routed = Launches(kernels=4 if num_tokens <= _FEW_TOKENS else 6, products=2)
    return around + routed + part


def _is_mixed(weights: RankWeights, at: str) -> bool:
    """Whether the shared expert is stored as the routed ones are, so that they are one operator."""
    shared, stored = f"{at}.mlp.shared_expert", weights.quantized
    return all(
        f"{shared}.{name}" not in weights.num_products
        and stored.get(f"{shared}.{name}") == stored.get(f"{at}.mlp.experts.{name}")
        for name in ("gate_up_proj", "down_proj")
    )


def _finishing(weights: RankWeights, name: str, num_rows: int) -> int:
    """Launches that gate a product or make it float32: none if its kernel does."""
    return int(num_rows > FEW_ROWS and name not in weights.quantized)


def _products(weights: RankWeights, at: str, *names: str) -> Launches:
    """A matrix that is stored in several runs is several products, which are then joined."""
    runs = [weights.num_products.get(f"{at}.{name}", 1) for name in names]
    joined = sum(count > 1 for count in runs)
    return Launches(products=sum(runs), operations=joined)
