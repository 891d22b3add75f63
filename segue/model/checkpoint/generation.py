"""A model folder's defaults for sampling and end tokens. No torch.

generation_config.json   sampling values, end tokens
config.json              end tokens, if the first file has none …
tokenizer_config.json    … together with its `eos_token`: Qwen's chats end with <|im_end|>, while
                         config.json names <|endoftext|>
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segue.api.errors import InvalidCheckpoint, InvalidRequest
from segue.api.types import SamplingParams
from segue.model.checkpoint.typed_json import Json, number, read_object, section

GENERATION_CONFIG = "generation_config.json"
_NUMBERS = ("temperature", "top_p", "min_p", "repetition_penalty")

TokenId = Callable[[str], int | None]
"""The id of a token by its name; None if the vocabulary lacks it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationDefaults:
    """Defaults for parameters that a client does not set."""

    sampling: SamplingParams = field(default_factory=SamplingParams)
    end_ids: tuple[int, ...] = ()
    """Tokens that end an answer."""

    @classmethod
    def from_folder(
        cls, folder: Path, *, token_id: TokenId = lambda _: None, with_file: bool = True
    ) -> GenerationDefaults:
        """`with_file`: use generation_config.json. Raises InvalidCheckpoint."""
        path = folder / GENERATION_CONFIG
        declared = read_object(path) if with_file and path.exists() else {}
        try:
            sampling = _sampling(declared)
            end_ids = _ids(declared)
        # The values validate themselves.
        except (InvalidCheckpoint, InvalidRequest) as error:
            raise InvalidCheckpoint(
                f"{path}: {error}; correct the file, or ignore it with --generation-config none"
            ) from None
        return cls(sampling=sampling, end_ids=end_ids or _end_ids(folder, token_id))


def _sampling(declared: Json) -> SamplingParams:
    """`do_sample: false` is greedy, even with a temperature. A temperature without `do_sample` is
    used.
    """
    given: dict[str, Any] = {n: v for n in _NUMBERS if (v := _number(declared, n)) is not None}
    top_k = _number(declared, "top_k")
    if top_k is not None:
        # 0 or -1 keeps all tokens.
        given["top_k"] = max(int(top_k), 0)
    do_sample = declared.get("do_sample")
    if do_sample is not None and not isinstance(do_sample, bool):
        raise InvalidCheckpoint(f"do_sample must be true or false, got {do_sample!r}")
    if do_sample is False:
        given["temperature"] = 0.0
    elif do_sample:
        given.setdefault("temperature", 1.0)
    return SamplingParams(**given)


def _number(declared: Json, name: str) -> float | None:
    return None if declared.get(name) is None else number(declared, name, float)


def _end_ids(folder: Path, token_id: TokenId) -> tuple[int, ...]:
    path = folder / "config.json"
    outer = read_object(path)
    try:
        ids = _ids(outer) or _ids(section(outer, "text_config"))
    except InvalidCheckpoint as error:
        raise InvalidCheckpoint(f"{path}: {error}") from None
    own = _tokenizer_end(folder, token_id)
    return ids if own is None or own in ids else (*ids, own)


def _tokenizer_end(folder: Path, token_id: TokenId) -> int | None:
    path = folder / "tokenizer_config.json"
    config = read_object(path) if path.exists() else {}
    match config.get("eos_token"):
        case str(token) | {"content": str(token)}:
            pass
        case _:
            return None
    known = token_id(token)
    if known is not None:
        return known
    # Folders of older libraries list its id here.
    added = config.get("added_tokens_decoder")
    for added_id, entry in (added if isinstance(added, dict) else {}).items():
        if isinstance(entry, dict) and entry.get("content") == token and str(added_id).isdecimal():
            return int(added_id)
    return None


def _ids(config: Json) -> tuple[int, ...]:
    """`eos_token_id`: one id or several; empty if it is missing."""
    declared = config.get("eos_token_id")
    ids: Sequence[object] = (
        () if declared is None else declared if isinstance(declared, list) else [declared]
    )
    if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
        raise InvalidCheckpoint(f"eos_token_id must be token ids, got {declared!r}")
    return tuple(dict.fromkeys(i for i in ids if isinstance(i, int)))
