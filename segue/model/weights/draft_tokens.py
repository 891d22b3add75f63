"""The tokens that may be drafted: only frequent ones, for a small draft head. No torch.

A BPE vocabulary numbers its tokens in the order of merges, the most frequent pair first. So low ids
are frequent tokens. Added tokens (<|im_end|>, <think>, <tool_call>) have the highest ids, but are
frequent in answers: all of them may be drafted.

The trunk's own token decides. So rare tokens are never drafted, but still generated.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from segue.model.checkpoint.typed_json import read_object
from segue.model.config import ModelConfig
from segue.model.ranks.config import head_of
from segue.parallel.rank import Rank

_TOKENIZER = "tokenizer.json"


def tokens_of_folder(folder: Path, vocab_size: int, count: int) -> tuple[range, ...] | None:
    """The tokens that may be drafted; None: the whole vocabulary. `count`: their number without
    added ones; 0: all. Without tokenizer.json there are no added ones."""
    if not 0 < count < vocab_size:
        return None
    path = folder / _TOKENIZER
    listed = read_object(path).get("added_tokens") if path.is_file() else None
    entries = listed if isinstance(listed, list) else []
    ids = [entry.get("id") for entry in entries if isinstance(entry, dict)]
    return frequent_tokens(vocab_size, [i for i in ids if isinstance(i, int)], count)


def frequent_tokens(
    vocab_size: int, added_ids: Collection[int], count: int
) -> tuple[range, ...] | None:
    """The first `count` ids and the added ones, in order, as ranges; None if these are all, or
    `count` is 0."""
    if not 0 < count < vocab_size:
        return None
    ranges = [range(count)]
    for token_id in sorted({i for i in added_ids if count <= i < vocab_size}):
        if token_id == ranges[-1].stop:
            ranges[-1] = range(ranges[-1].start, token_id + 1)
        else:
            ranges.append(range(token_id, token_id + 1))
    return tuple(ranges) if sum(map(len, ranges)) < vocab_size else None


def share_of(tokens: Sequence[range], rank: Rank) -> tuple[range, ...]:
    """The tokens whose logits a rank computes: an equal share, regardless of their place in the
    vocabulary. The last ranks may have fewer."""
    wanted = head_of(sum(map(len, tokens)), rank)
    shares, first = [], 0
    for part in tokens:
        inside = part[max(wanted.start - first, 0) : max(wanted.stop - first, 0)]
        if inside:
            shares.append(inside)
        first += len(part)
    return tuple(shares)


def rows_beside_head(config: ModelConfig, rank: Rank) -> tuple[range, ...]:
    """Rows of the head that a rank loads additionally for drafts. Ranks split the head by
    vocabulary, so that one of them has most frequent tokens. `config` is the whole model's."""
    if config.draft_tokens is None or rank.count == 1 or config.tie_word_embeddings:
        return ()
    return share_of(config.draft_tokens, rank)
