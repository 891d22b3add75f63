"""Settings of a worker's model and memory (section `[engine]`), and the resulting pool sizes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from segue.api.errors import InvalidConfig
from segue.cache.layout import DTYPE_BYTES, E4M3, CacheLayout
from segue.model.weights.at_load import require_quantization
from segue.parallel.rank import Rank
from segue.process.cores import UsableCores, core_lists, listed

AUTO = "auto"
FP8 = "fp8"
TRITON, FLASHINFER = "triton", "flashinfer"

MAX_RANKS = 64
COUNTS = ("page_tokens", "cache_bytes", "max_running", "tensor_parallel", "expert_parallel")

MAX_AUTO_HOST_BYTES = 2 << 30
"""Limit of "auto" for a worker on a CPU. The worker writes its whole cache once at start-up, which
takes about 2 s per GiB, and no other process can use that memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    dtype: str = "auto"
    """Dtype of weights, activations and pages; "auto" takes the checkpoint's."""
    kv_dtype: str = "auto"
    """Of keys and values in pages. "auto": as `dtype`. "fp8": e4m3, half the bytes of bfloat16,
    with the checkpoint's scales if it has any. Equal on all workers. See docs/operations.md."""
    device: str = "cpu"
    """"cpu" or "cuda": the one GPU visible to the process (set `CUDA_VISIBLE_DEVICES`)."""
    prefill_attention: str = "auto"
    """The kernel for the attention of prompts on a GPU. "auto": FlashInfer, if it is installed, in
    passes where it should be faster; otherwise our kernel. "flashinfer": in all passes, or an error
    at start-up. "triton": our kernel. See docs/operations.md."""
    quantization: str = "none"
    """Quantise a plain checkpoint's large matrices at load, on a CPU: "int8", or "int4" with the
    head in int8. Steps that are bound by reading weights take less time; tokens differ. Equal on
    all workers. See docs/operations.md."""
    quantize_activations: bool = False
    """Quantise the inputs of products of more than 128 rows (so only in prompts), as specified by a
    checkpoint in FP8 or NVFP4. On a GPU such products take less time. Off by default, since greedy
    tokens may differ from those with bfloat16 inputs. Equal on all workers. See
    docs/operations.md."""
    page_tokens: int = 16
    """Tokens per page of keys and values. Equal on all workers."""
    cache_bytes: int | str = "auto"
    """Memory for pages and slots together. "auto": an equal share of the memory that the weights of
    all workers on the host or GPU leave free, but no more than the worker can use; on a CPU at most
    2 GiB, or twice the slots of `max_running` sequences. See docs/operations.md."""
    gpu_share: float = 1.0
    """Share of the GPU's memory that "auto" uses on "cuda": below 1 if workers share the GPU."""
    host_cache_bytes: int = 0
    """Host memory to which evicted session cache is offloaded; 0: evicted cache is lost. On a CPU,
    `cache_bytes` is the same memory and needs no copying."""
    max_running: int = 16
    """Sequences that a worker runs at once. Each may need two slots."""
    max_checkpoints: int = 64
    """Additional slots for states that outlive their sequence; fewer if slots would take more than
    half of the memory."""
    mtp: bool = True
    """Serve the checkpoint's MTP layer, if it has one, for drafting. This costs a little work in
    every pass, and one more attention layer in each page. Equal on all workers."""
    draft_vocabulary: int = 32768
    """Drafts are chosen among this many of the most frequent tokens, and the added ones; 0: among
    all. It changes speed, not tokens: a draft mostly reads the head."""
    tensor_parallel: int = 1
    """Ranks of a worker: processes that compute one model together, each with its own GPU if the
    device is "cuda". Each holds a part of the weights and of every page and slot, and has
    `cache_bytes` and `host_cache_bytes` of memory. `[prefill]` and `[decode]` may override it."""
    expert_parallel: int = 1
    """Groups of ranks, each with its own whole experts; within a group each expert is split by
    columns. Limited to the worker's number of ranks."""
    cores: str = ""
    """Cores that a worker is pinned to, as in "0-3,8"; `[prefill]` and `[decode]` may override it.
    Semicolons separate the lists of a role's workers, as in "0-3;4-7". "all", the default if `segue
    serve` starts Ray itself: every core that the process may use."""
    num_threads: int = 0
    """Torch threads of each rank; 0: one for each of `cores`, limited by the container's quota and
    divided by the ranks. Without cores, OMP_NUM_THREADS, if it is set. A decode worker takes no
    more than one for each 8 MiB of its weights."""

    def __post_init__(self) -> None:
        self._check_choices()
        if isinstance(self.cache_bytes, str) and self.cache_bytes != AUTO:
            raise ValueError(f'cache_bytes must be a number or "auto", got {self.cache_bytes!r}')
        if not 0.0 < self.gpu_share <= 1.0:
            raise ValueError(f"gpu_share must be in (0, 1], got {self.gpu_share:g}")
        for name in COUNTS:
            if getattr(self, name) != AUTO and getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        for name in ("host_cache_bytes", "num_threads"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        if self.draft_vocabulary < 0:
            raise ValueError(
                f"draft_vocabulary must be >= 0 (0: the whole vocabulary), got "
                f"{self.draft_vocabulary}"
            )
        core_lists(self.cores)

    def _check_choices(self) -> None:
        choices = {
            "dtype": (AUTO, *DTYPE_BYTES),
            "kv_dtype": (AUTO, FP8),
            "device": ("cpu", "cuda"),
            "prefill_attention": (AUTO, TRITON, FLASHINFER),
        }
        for name, values in choices.items():
            if getattr(self, name) not in values:
                raise ValueError(
                    f"{name} must be one of {', '.join(values)}, got {getattr(self, name)!r}"
                )
        if self.prefill_attention != AUTO and self.device != "cuda":
            raise ValueError(
                f'prefill_attention = "{self.prefill_attention}" needs device = "cuda", got '
                f'"{self.device}": leave it out'
            )
        require_quantization(self.quantization, self.device)

    def of_role(self, tensor_parallel: int, cores: str = "") -> EngineConfig:
        """These settings for workers with this number of ranks and these cores; 0 and "":
        unchanged. Raises InvalidConfig if the ranks cannot be divided into groups."""
        count = tensor_parallel or self.tensor_parallel
        groups = min(self.expert_parallel, count)
        if count % groups:
            raise InvalidConfig(
                f"tensor_parallel = {count} must be a multiple of [engine] expert_parallel = "
                f"{groups}"
            )
        return replace(
            self, tensor_parallel=count, expert_parallel=groups, cores=cores or self.cores
        )

    def on(self, usable: UsableCores, *, threads_are_set: bool) -> EngineConfig:
        """With the resulting cores and threads of the worker in this process; 0 threads keeps
        torch's own number, if `threads_are_set` by its environment and neither `cores` nor
        `num_threads` is set. Raises InvalidConfig."""
        lists = core_lists(self.cores)
        if len(lists) > 1:
            raise InvalidConfig(
                f"cores = {self.cores!r} has a list for each of {len(lists)} workers, which only "
                "`segue serve` assigns: name this worker's cores"
            )
        cores = lists[0] if lists else usable.cores
        usable.require(self.cores, cores)
        num_threads = self.num_threads
        if not num_threads and (self.cores or not threads_are_set):
            num_threads = usable.num_threads(cores, num_ranks=self.tensor_parallel)
        return replace(self, cores=listed(cores), num_threads=num_threads)

    def stored_dtype(self, dtype: str) -> str:
        """The dtype of keys and values, if activations have `dtype`."""
        return E4M3 if self.kv_dtype == FP8 else dtype

    @property
    def ranks(self) -> list[Rank]:
        """The ranks of one worker."""
        count = self.tensor_parallel
        return [
            Rank(index=index, count=count, expert_groups=self.expert_parallel)
            for index in range(count)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSizes:
    num_pages: int
    num_slots: int


def pool_sizes(
    layout: CacheLayout, engine: EngineConfig, *, max_context: int, max_drafts: int = 0
) -> PoolSizes:
    """Slots for running sequences, checkpoints and the states after drafts. The rest of the budget
    goes to pages, up to the number that can be used.

    Raises InvalidConfig if the budget has no room for a page.
    """
    assert isinstance(engine.cache_bytes, int), 'resolve "auto" first (segue/engine/budget.py)'
    num_working = 2 * engine.max_running
    affordable = engine.cache_bytes // 2 // layout.slot_bytes - num_working
    wanted = engine.max_checkpoints + max_drafts * engine.max_running
    num_slots = num_working + min(wanted, max(affordable, 0))
    for_slots = num_slots * layout.slot_bytes
    useful = _useful_pages(layout, engine.max_running, max_context)
    num_pages = min((engine.cache_bytes - for_slots) // layout.page_bytes, useful)
    if num_pages < 1:
        raise InvalidConfig(
            f"[engine] cache_bytes = {engine.cache_bytes} is too small: {num_slots} slots "
            f"take {for_slots} bytes and a page {layout.page_bytes}; raise it or lower max_running"
        )
    return PoolSizes(num_pages=num_pages, num_slots=num_slots)


def _useful_pages(layout: CacheLayout, max_running: int, max_context: int) -> int:
    """Enough for `max_running` sequences at full length and as many cached prefixes."""
    return 2 * max_running * layout.num_pages_for(max_context)


def auto_cache_bytes(
    layout: CacheLayout,
    engine: EngineConfig,
    *,
    max_context: int,
    max_drafts: int,
    share_bytes: int,
) -> tuple[int, int]:
    """The resulting size of the cache for "auto", at most `share_bytes`, and of `max_running`,
    which is lowered if its slots would take more than half of the cache.
    """
    num_slots = (2 + max_drafts) * engine.max_running + engine.max_checkpoints
    num_pages = _useful_pages(layout, engine.max_running, max_context)
    useful = num_slots * layout.slot_bytes + num_pages * layout.page_bytes
    cache_bytes = min(share_bytes, useful)
    if engine.device == "cpu":
        least = 2 * 2 * engine.max_running * layout.slot_bytes
        cache_bytes = min(cache_bytes, max(MAX_AUTO_HOST_BYTES, least))
    affordable = cache_bytes // 2 // (2 * layout.slot_bytes)
    return cache_bytes, max(min(engine.max_running, affordable), 1)


def host_pool_sizes(layout: CacheLayout, engine: EngineConfig) -> PoolSizes:
    """A quarter of the budget goes to slots, the rest to pages: no sequence runs there, so one
    state at the end of each prefix is enough.

    Raises InvalidConfig if the budget is not zero but has no room for one of each.
    """
    num_slots = engine.host_cache_bytes // 4 // layout.slot_bytes
    num_pages = (engine.host_cache_bytes - num_slots * layout.slot_bytes) // layout.page_bytes
    if engine.host_cache_bytes and not (num_slots and num_pages):
        raise InvalidConfig(
            f"[engine] host_cache_bytes = {engine.host_cache_bytes} is too small: a slot takes "
            f"{layout.slot_bytes} bytes, and slots get a quarter of it; a page takes "
            f"{layout.page_bytes} bytes; raise it, or set 0 for no host tier"
        )
    return PoolSizes(num_pages=num_pages, num_slots=num_slots)
