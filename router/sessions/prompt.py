"""Encodes a turn's input as token ids, and refuses turns that no worker could serve.

Only here are unset fields filled in: sampling and end tokens from the checkpoint
(`segue/model/checkpoint/generation.py`), the longest answer from context and memory
(`router/placement/pools.py`).

A short input is tokenised inline, a longer one in a thread, so that the event loop keeps running. A
very long one is tokenised in a separate process (`PromptHelper`), because some steps hold the GIL
to their end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from router.placement.pools import Pools, answer_tokens
from router.sessions.grammars import GrammarDesk
from router.sessions.helper import Helper, PromptHelper
from router.sessions.history import Completed
from segue.answers import AUTO, ParserNames, parsers_for
from segue.api.errors import InvalidRequest
from segue.api.prompt import Prompt
from segue.api.turn import TurnSpec
from segue.api.types import (
    ChatInput,
    Grammar,
    OutputFormat,
    StopConditions,
    StopRules,
    TokenInput,
    ToolCalls,
    TurnInput,
    TurnRequest,
)
from segue.grammar.build import GrammarSpec
from segue.model.checkpoint.generation import GenerationDefaults
from segue.model.checkpoint.model_id import model_id
from segue.model.checkpoint.source import AS_PUBLISHED, CheckpointConfig
from segue.model.config import ModelConfig
from segue.text.limits import (
    SizeLimits,
    validate_against_vocab,
    validate_length,
    validate_prompt,
    validate_prompt_logprobs,
    work_of,
)
from segue.text.prompt import IdEncoder, PromptEncoder
from segue.text.session_prompt import PromptRecord, SessionPrompt
from segue.text.tokens.tokenizer import Tokenizer

# Most characters to render and tokenise inline, which takes about 10 ms at most.
_INLINE_CHARACTERS = 8_192
# Above this, a single step might hold the GIL for longer than other turns should wait.
_THREAD_CHARACTERS = 131_072
# If no worker is known, only the context limits an answer.
_ANY_POOLS = Pools()


@dataclass(frozen=True, slots=True)
class EncodedTurn:
    """A turn in tokens, and the record that the session's next prompt can be made from."""

    spec: TurnSpec
    memory: PromptRecord | None = None
    num_kept: int = 0
    """Leading tokens that are those of the session's last prompt."""
    starts_in_reasoning: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptBuilder:
    """The checkpoint's tokenizer, chat template, defaults and limits."""

    encoder: PromptEncoder | IdEncoder
    config: ModelConfig
    defaults: GenerationDefaults
    model_id: str
    """Empty if the folder has no weights. Then the workers report which ones they serve."""
    helper: PromptHelper | None = None
    parsers: ParserNames = AUTO
    """How to read answers."""
    grammars: GrammarDesk | None = None
    """None without a tokenizer."""

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        checkpoint: CheckpointConfig = AS_PUBLISHED,
        parsers: ParserNames = AUTO,
    ) -> PromptBuilder:
        """Raises InvalidCheckpoint."""
        config = ModelConfig.from_folder(folder)
        max_context = config.max_position_embeddings
        with_file = checkpoint.generation_config == "auto"
        served_id = model_id(folder) if any(folder.glob("*.safetensors")) else ""
        if checkpoint.skip_tokenizer:
            return cls(
                encoder=IdEncoder(),
                config=config,
                defaults=GenerationDefaults.from_folder(folder, with_file=with_file),
                model_id=served_id,
                parsers=parsers_for("", parsers),
            )
        encoder = PromptEncoder.from_folder(folder, max_context=max_context)
        return cls(
            encoder=encoder,
            config=config,
            defaults=GenerationDefaults.from_folder(
                folder, token_id=encoder.tokenizer.token_id, with_file=with_file
            ),
            model_id=served_id,
            helper=PromptHelper(folder, max_context),
            parsers=parsers_for(
                encoder.template.source.with_tools if encoder.template else "", parsers
            ),
            grammars=GrammarDesk(folder, config.vocab_size),
        )

    @property
    def tokenizer(self) -> Tokenizer | None:
        """None if the model is served without one."""
        return None if isinstance(self.encoder, IdEncoder) else self.encoder.tokenizer

    def limits(self, max_bytes: int) -> SizeLimits:
        return SizeLimits(
            max_bytes=max_bytes,
            max_context=self.config.max_position_embeddings,
            longest_token=self.encoder.longest_token,
        )

    async def make(self, completed: Completed, pools: Pools = _ANY_POOLS) -> EncodedTurn:
        """Like `build`, but adds the turn's grammar and does not block the event loop. May also
        raise Overloaded."""
        built = await self._make(completed, pools)
        if completed.request.output is None:
            return built
        grammar = await self._grammar(completed.request, completed.request.output, built)
        return replace(built, spec=replace(built.spec, grammar=grammar))

    async def _grammar(
        self, request: TurnRequest, output: OutputFormat, built: EncodedTurn
    ) -> Grammar:
        if self.grammars is None:
            raise InvalidRequest.at(
                "output", "needs text, and this model is served without a tokenizer: leave it out"
            )
        if request.stop.ignore_eos or not built.spec.stop.stop_token_ids:
            raise InvalidRequest.at(
                "output",
                "expected an end token, with which the answer ends where its form does, got "
                f"{'ignore_eos' if request.stop.ignore_eos else 'a checkpoint without one'}: "
                "leave one of them out, or name stop token ids",
            )
        may_call = isinstance(output, ToolCalls) or output.or_tool_calls
        chat = request.input if isinstance(request.input, ChatInput) else None
        named = self.parsers.tool_calls
        return await self.grammars.make(
            GrammarSpec(
                output=output,
                tools=chat.tools if chat and may_call else (),
                # "auto" here means that the template writes calls in no known format.
                call_format="none" if named == "auto" else named,
                after_reasoning=built.starts_in_reasoning,
            )
        )

    async def _make(self, completed: Completed, pools: Pools) -> EncodedTurn:
        known = completed.known
        num_new = work_of(completed.request.input, first=_first_rendered(completed))
        if num_new <= _INLINE_CHARACTERS:
            return self.build(completed, pools)
        if num_new <= _THREAD_CHARACTERS or self.helper is None:
            return await asyncio.to_thread(self.build, completed, pools)
        made = await self.helper.encode_turn(
            completed.request.input,
            known.memory if known else None,
            completed.num_same,
            num_characters=num_new,
        )
        return self._finish(completed, made, pools)

    async def encode(self, turn_input: TurnInput) -> Sequence[int]:
        """The tokens of a prompt, without a turn. May raise InvalidRequest and Overloaded."""
        num_new = work_of(turn_input)
        if num_new <= _INLINE_CHARACTERS:
            return self.encoder.encode(turn_input)
        if num_new <= _THREAD_CHARACTERS or self.helper is None:
            return await asyncio.to_thread(self.encoder.encode, turn_input)
        made = await self.helper.encode_turn(turn_input, None, 0, num_characters=num_new)
        return made.ids

    @property
    def _helpers(self) -> list[Helper]:
        return [helper for helper in (self.helper, self.grammars) if helper is not None]

    def reap(self) -> None:
        for helper in self._helpers:
            helper.reap()

    async def close(self) -> None:
        for helper in self._helpers:
            await helper.close()

    def build(self, completed: Completed, pools: Pools = _ANY_POOLS) -> EncodedTurn:
        """The turn in tokens, its answer limited by context and memory. Raises InvalidRequest."""
        known = completed.known
        memory = known.memory if known else None
        made = self.encoder.encode_turn(completed.request.input, memory, completed.num_same)
        return self._finish(completed, made, pools)

    def _finish(self, completed: Completed, made: SessionPrompt, pools: Pools) -> EncodedTurn:
        request, known = completed.request, completed.known
        prompt = known.tokens[: made.num_kept] + made.ids if known else Prompt(made.ids)
        prompt = prompt.salted(request.salt)
        max_context, vocab_size = self.config.max_position_embeddings, self.config.vocab_size
        validate_length(len(prompt), max_context)
        if isinstance(request.input, TokenInput) or self.encoder.num_ids > vocab_size:
            validate_prompt(prompt.tokens, vocab_size)
        max_tokens = answer_tokens(
            len(prompt), request.stop.max_tokens, max_context=max_context, pools=pools
        )
        sampling = request.sampling.resolved(self.defaults.sampling)
        validate_against_vocab(sampling, request.stop, vocab_size)
        validate_prompt_logprobs(len(prompt), sampling)
        spec = TurnSpec(
            turn_id=request.turn_id,
            session_id=request.session_id,
            context=prompt,
            sampling=sampling,
            stop=self._rules(request.stop, max_tokens),
            branch_points=self.encoder.branch_points(prompt.tokens, request.input),
        )
        is_chat = isinstance(request.input, ChatInput)
        return EncodedTurn(
            spec,
            made.memory,
            made.num_kept,
            starts_in_reasoning=is_chat and self.encoder.thinking.is_open(prompt.tokens),
        )

    def _rules(self, stop: StopConditions, max_tokens: int) -> StopRules:
        if stop.stop_strings and isinstance(self.encoder, IdEncoder):
            raise InvalidRequest(
                "stop strings need text, and this model is served without a tokenizer: "
                "use stop token ids"
            )
        end_ids = () if stop.ignore_eos else self.defaults.end_ids
        return StopRules(
            max_tokens=max_tokens,
            stop_strings=stop.stop_strings,
            stop_token_ids=tuple(dict.fromkeys((*stop.stop_token_ids, *end_ids))),
            min_tokens=stop.min_tokens,
        )


def _first_rendered(completed: Completed) -> int:
    """The first message that probably has to be rendered."""
    chat, known = completed.request.input, completed.known
    if not isinstance(chat, ChatInput) or known is None or known.memory is None:
        return 0
    messages, last_same = chat.messages, completed.num_same - 1
    if not any(message.role == "user" for message in messages[last_same + 1 :]):
        return max(last_same, 0)
    # With a new user message, a template may render what followed the last one differently.
    while last_same > 0 and messages[last_same].role != "user":
        last_same -= 1
    return max(last_same, 0)
