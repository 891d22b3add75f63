"""The checkpoint's tokenizer: text to ids and ids to text, for byte-level BPE as Qwen uses it.

`encode` first cuts the text at its control tokens (`<|im_end|>`, `<think>`, …) and then encodes
each piece between them separately, as the `tokenizers` library does internally. Doing it here lets
pieces be cached (`piece_cache.py`) and lets `shield.py` define what a control token is:
`encode_marked` cuts at marks only, and finds no control tokens in text.
"""

from __future__ import annotations

import functools
import json
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from tokenizers import AddedToken, decoders, models
from tokenizers import Tokenizer as Pipeline

from segue.api.errors import ContextOverflow, InvalidCheckpoint, InvalidRequest
from segue.text.template.shield import ControlMarks, match_any
from segue.text.tokens.piece_cache import PieceCache

_CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
_SPACES = "\\s+(?!\\S)|\\s+"
# A letter before one non-letter character and another letter. In the patterns below, a match of
# letters ends there.
_LETTER = "[a-zA-Z\u4e00-\u9fff]"
_BETWEEN = "[ \n,.;:!?\u3001\u3002\uff0c\uff1a\uff1b\uff01\uff1f]"
_WORD_END = re.compile(f"{_LETTER}(?={_BETWEEN}{_LETTER})")
_PART_CHARACTERS = 1 << 16
_WORD_PATTERNS = frozenset(
    f"{_CONTRACTION}{word}|\\p{{N}}| ?[^\\s{other}\\p{{N}}]+[\\r\\n]*|\\s*[\\r\\n]+|{_SPACES}"
    for word, other in (
        # Qwen2 to Qwen3, and Qwen3.5.
        ("[^\\r\\n\\p{L}\\p{N}]?\\p{L}+", "\\p{L}"),
        ("[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+", "\\p{L}\\p{M}"),
    )
) | {
    # The demo's.
    f" ?\\p{{L}}+|\\p{{N}}|-|[^\\s\\p{{L}}\\p{{N}}-]+ ?|{_SPACES}"
}

_ANY_MARK = re.compile("([\ud800-\udfff])")


class Tokenizer:
    """Encodes without adding anything: the chat template writes starts, ends and roles.

    *Control tokens* are the checkpoint's added tokens. Some of them are *special*: these have no
    text when decoded. (`<|im_end|>` is special, `<think>` and `<tool_call>` are not.)
    """

    def __init__(self, pipeline: Pipeline, origin: str = "the tokenizer") -> None:
        _require_byte_level_bpe(pipeline, origin)
        added = pipeline.get_added_tokens_decoder()
        _require_plain_added_tokens(added.values(), origin)
        pipeline.no_truncation()
        pipeline.no_padding()
        self._pipeline = pipeline
        self._control_ids = {token.content: token_id for token_id, token in added.items()}
        self._special_ids = {token_id for token_id, token in added.items() if token.special}
        self._any_control = match_any(self._control_ids)
        self.marks = ControlMarks(self._control_ids, self.special_tokens)
        self._pieces = _without_added_tokens(pipeline)
        self._splits_at_words = _splits_at_words(pipeline)
        self._cache = PieceCache()
        self.max_ids: int | None = None
        """Raises ContextOverflow for a text with more ids."""
        self._bytes: dict[int, bytes] = {}
        self._marked_ids = {
            mark: self._control_ids[token] for mark, token in self.marks.token_of.items()
        }
        self._require_text_stays_text(origin)

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer:
        """Reads `tokenizer.json`. Raises InvalidCheckpoint."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise InvalidCheckpoint(
                f"expected a tokenizer in {path}, found none: "
                "a checkpoint folder needs the tokenizer.json it was published with; to serve "
                "token ids without text, use --skip-tokenizer ([checkpoint] skip_tokenizer)"
            )
        try:
            pipeline = Pipeline.from_file(str(path))
        # The library raises nothing narrower.
        except Exception as error:
            raise InvalidCheckpoint(
                f"{path} cannot be read as a tokenizer ({error}): download it again"
            ) from None
        return cls(pipeline, str(path))

    @property
    def vocab_size(self) -> int:
        """The number of tokens with text. A model's table is often larger, padded for speed."""
        return self._pipeline.get_vocab_size()

    @functools.cached_property
    def num_ids(self) -> int:
        """The largest id plus one."""
        return max(self._pipeline.get_vocab().values(), default=-1) + 1

    @functools.cached_property
    def longest_token(self) -> int:
        """In bytes. No token stands for more characters."""
        # The vocabulary writes a byte as one character, and an added token as it is.
        return max(map(len, self._pipeline.get_vocab()), default=1)

    @property
    def control_tokens(self) -> frozenset[str]:
        return frozenset(self._control_ids)

    @property
    def special_tokens(self) -> frozenset[str]:
        return frozenset(
            token for token, token_id in self._control_ids.items() if self.is_special(token_id)
        )

    def is_special(self, token_id: int) -> bool:
        return token_id in self._special_ids

    def token_id(self, token: str) -> int | None:
        """The id of a token by its name in the vocabulary, such as `<|im_end|>`."""
        return self._pipeline.token_to_id(token)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, control tokens included. Raises InvalidRequest for broken Unicode."""
        return self._join(self._any_control.split(text), self._control_ids)

    def encode_marked(self, text: str) -> list[int]:
        """The ids of `text` with marks for control tokens; everything else is ordinary text."""
        return self._join(_ANY_MARK.split(text), self._marked_ids)

    def encode_to_last_mark(self, text: str, ids: array[int]) -> str:
        """Adds the ids of `text` up to its last mark, and returns the text after that mark.

        These ids do not depend on what follows; the ids of the returned text do.
        """
        *pieces, rest = _ANY_MARK.split(text)
        ids.extend(self._join(pieces, self._marked_ids))
        return rest

    def _join(self, pieces: Sequence[str], control_ids: Mapping[str, int]) -> list[int]:
        """Text and control tokens alternate, because the patterns that cut them have one group."""
        ids: list[int] = []
        for index, piece in enumerate(pieces):
            if index % 2:
                ids.append(control_ids[piece])
            elif piece:
                ids.extend(self._encode_piece(piece))
                self._require_room(len(ids))
        return ids

    def encode_plain(self, text: str) -> list[int]:
        """The ids of `text` with nothing in it read as a control token."""
        return list(self._encode_piece(text))

    def decode(self, token_ids: Sequence[int], *, skip_special: bool = True) -> str:
        """The text of `token_ids`. Invalid UTF-8 becomes U+FFFD; unknown ids have no text."""
        return self._pipeline.decode(list(token_ids), skip_special_tokens=skip_special)

    def token_bytes(self, token_id: int) -> bytes:
        """What a token adds to the text, in UTF-8, perhaps part of a character; b"" if special."""
        known = self._bytes.get(token_id)
        if known is None:
            known = self._bytes[token_id] = self._look_up_bytes(token_id)
        return known

    def token_name(self, token_id: int) -> bytes:
        """As `token_bytes`, but a special token has its name; b"" if the id is unknown."""
        if self.is_special(token_id):
            return (self._pipeline.id_to_token(token_id) or "").encode()
        return self.token_bytes(token_id)

    def _require_text_stays_text(self, origin: str) -> None:
        for token, token_id in self._control_ids.items():
            if token_id in self.encode_plain(token):
                raise InvalidCheckpoint(
                    f"{origin}: the added token {token!r} is also an ordinary token, so a "
                    "client's text can become it: remove it from the model's own vocabulary"
                )

    def _look_up_bytes(self, token_id: int) -> bytes:
        token = None if self.is_special(token_id) else self._pipeline.id_to_token(token_id)
        if token is None:
            return b""
        try:
            return bytes(_BYTE_OF_CHARACTER[character] for character in token)
        except KeyError:
            # An added token may hold characters that do not name a byte, such as a space.
            return token.encode()

    def _encode_piece(self, piece: str) -> array[int]:
        ids = self._cache.get(piece)
        if ids is None:
            ids = array("I")
            for part in self._parts(piece):
                ids.extend(self._encode_part(part))
                self._require_room(len(ids))
            self._cache.put(piece, ids)
        return ids

    def _encode_part(self, part: str) -> array[int]:
        try:
            # Unlike `encode`, this releases the GIL.
            (encoding,) = self._pieces.encode_batch_fast([part], add_special_tokens=False)
        except TypeError:
            raise InvalidRequest(
                "expected text in valid Unicode, got a lone half of a surrogate pair: "
                "look for \\ud800 to \\udfff in the JSON of tools and tool calls"
            ) from None
        return array("I", encoding.ids)

    def _parts(self, piece: str) -> Iterator[str]:
        """Cuts a long piece where no token crosses, so that an overflow is noticed early."""
        start = 0
        while self._splits_at_words and len(piece) - start > _PART_CHARACTERS:
            cut = _WORD_END.search(piece, start + _PART_CHARACTERS)
            if cut is None:
                break
            yield piece[start : cut.end()]
            start = cut.end()
        yield piece[start:]

    def _require_room(self, num_ids: int) -> None:
        if self.max_ids is not None and num_ids > self.max_ids:
            raise ContextOverflow(
                f"the prompt is too long: more than {self.max_ids} tokens, which is the model's "
                "context: shorten it"
            )


def _without_added_tokens(pipeline: Pipeline) -> Pipeline:
    """Shares the model, so the vocabulary is in memory only once."""
    bare = Pipeline(pipeline.model)
    if pipeline.normalizer is not None:
        bare.normalizer = pipeline.normalizer
    if pipeline.pre_tokenizer is not None:
        bare.pre_tokenizer = pipeline.pre_tokenizer
    return bare


def _splits_at_words(pipeline: Pipeline) -> bool:
    """Whether the pre-tokenizer is known to split a text where `_WORD_END` matches."""
    described = json.loads(pipeline.pre_tokenizer.__getstate__()) if pipeline.pre_tokenizer else {}
    for one in described.get("pretokenizers", [described]):
        match one:
            case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}:
                return pattern in _WORD_PATTERNS
            case {"type": "ByteLevel", "use_regex": True}:
                return True
    return False


def _require_byte_level_bpe(pipeline: Pipeline, origin: str) -> None:
    model, decoder = type(pipeline.model), type(pipeline.decoder)
    if model is not models.BPE or decoder is not decoders.ByteLevel:
        raise InvalidCheckpoint(
            f"{origin}: expected a byte-level BPE tokenizer as Qwen uses, got model "
            f"{model.__name__} with decoder {decoder.__name__}: serve another checkpoint"
        )


def _require_plain_added_tokens(tokens: Iterable[AddedToken], origin: str) -> None:
    for token in tokens:
        if token.lstrip or token.rstrip or token.single_word:
            raise InvalidCheckpoint(
                f"{origin}: the added token {token.content!r} looks at its neighbours (lstrip, "
                "rstrip or single_word), which is not supported: turn these off in the file"
            )


def _name_bytes() -> dict[str, int]:
    """Byte-level BPE names each byte by a visible character: itself, or one from U+0100 on."""
    visible = set(chain(range(0x21, 0x7F), range(0xA1, 0xAD), range(0xAE, 0x100)))
    names = {chr(byte): byte for byte in visible}
    hidden = (byte for byte in range(256) if byte not in visible)
    names.update((chr(0x100 + index), byte) for index, byte in enumerate(hidden))
    return names


_BYTE_OF_CHARACTER = _name_bytes()
