"""Very long prompts, made in a process of their own: the router's side."""

from __future__ import annotations

from pathlib import Path

from router.sessions.helper import Helper
from segue.api.errors import Overloaded
from segue.api.types import TurnInput
from segue.text.session_prompt import PromptRecord, SessionPrompt

# Limits the router's memory for inputs that wait for the process or are being tokenised.
_MAX_WAITING_CHARACTERS = 64 << 20
# Rough speed of the process, for the time after which to retry.
_CHARACTERS_PER_S = 1_000_000
# A prompt of a million tokens takes some seconds. A single word of megabytes would take minutes.
_MAX_JOB_S = 30.0


class PromptHelper:
    """Makes one prompt at a time, in order of arrival. One event loop owns it."""

    def __init__(self, folder: Path, max_context: int, *, max_job_s: float = _MAX_JOB_S) -> None:
        self._waiting_characters = 0
        self._helper = Helper(
            "segue.text.helper_process",
            [str(folder), str(max_context)],
            name="prompt-helper",
            purpose="tokenises long prompts",
            max_job_s=max_job_s,
            too_slow=(
                f"the messages could not be rendered and tokenised within {max_job_s:g} s: "
                "shorten them"
            ),
        )

    @property
    def process_id(self) -> int | None:
        return self._helper.process_id

    async def encode_turn(
        self,
        turn_input: TurnInput,
        memory: PromptRecord | None,
        num_same: int,
        *,
        num_characters: int,
    ) -> SessionPrompt:
        """Raises Overloaded if too much is queued, and what `PromptEncoder.encode_turn` raises."""
        waiting = self._waiting_characters + num_characters
        if self._waiting_characters and waiting > _MAX_WAITING_CHARACTERS:
            raise Overloaded.after(
                f"prompts of {self._waiting_characters} characters wait to be tokenised, and "
                f"{num_characters} more would exceed {_MAX_WAITING_CHARACTERS}: try again later",
                retry_after_s=waiting / _CHARACTERS_PER_S,
            )
        self._waiting_characters = waiting
        try:
            made = await self._helper.do((turn_input, memory, num_same))
            assert isinstance(made, SessionPrompt)
            return made
        finally:
            self._waiting_characters -= num_characters

    def reap(self) -> None:
        self._helper.reap()

    async def close(self) -> None:
        await self._helper.close()
