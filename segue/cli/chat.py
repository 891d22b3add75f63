"""`segue chat`: a conversation, line by line, with the timings under each answer.

The event loop runs only during a turn, not at the prompt. Ctrl-C at the prompt is therefore an
ordinary KeyboardInterrupt, while Ctrl-C during an answer cancels that answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape

from segue.api.errors import SegueError, Unavailable
from segue.api.turn import TokenDelta, TurnEnd
from segue.api.types import SamplingParams, StopConditions
from segue.cli import show
from segue.cli.options import Connection
from segue.cli.prompt import TerminalPrompt, line_history
from segue.demo import SUGGESTIONS
from segue.sdk.client import Client
from segue.sdk.session import Session

_DEMO = "demo"
"""The name of the bundled checkpoint, as in `segue.model.checkpoint.source`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A conversation with its settings."""

    connection: Connection
    session: str | None
    system: str
    tools: Sequence[str]
    thinking: bool | None = None
    template_kwargs: str = ""
    sampling: SamplingParams
    stop: StopConditions
    out: Console
    err: Console
    keeps_history: bool = True
    _runner: asyncio.Runner = field(default_factory=asyncio.Runner)

    def run_turn(self, prompt: str) -> None:
        """One turn. Raises SegueError."""
        with self._connected() as client:
            self._runner.run(self._run_turn(self._conversation(client), prompt))

    def run(self) -> None:
        """Turns until Ctrl-D, `/exit`, or Ctrl-C at the prompt. Raises SegueError."""
        prompt = TerminalPrompt(out=self.out, err=self.err)
        with self._connected() as client:
            _introduce(prompt, self._runner.run(client.status()).model)
            conversation = self._conversation(client)
            with line_history(self.keeps_history):
                for line in prompt.messages():
                    self._take_turn(conversation, line, prompt)

    def _take_turn(self, conversation: Session, line: str, prompt: TerminalPrompt) -> None:
        try:
            self._runner.run(self._run_turn(conversation, line))
        except KeyboardInterrupt:
            # An interrupted script ends.
            if not prompt.has_person:
                raise
            prompt.show("cancelled; the conversation continues without this turn")
        except SegueError as error:
            # At a terminal the user may try another message; a script must fail.
            if not prompt.has_person:
                raise
            self.err.print(error_line(error), soft_wrap=True)
            later = ", once the router is back" if isinstance(error, Unavailable) else ""
            prompt.show(f"the conversation can continue without this turn{later}")

    async def _run_turn(self, conversation: Session, text: str) -> None:
        is_midline = False
        try:
            turn = conversation.turn(text, sampling=self.sampling, stop=self.stop)
            async for event in turn:
                match event:
                    case TokenDelta():
                        self.out.out(event.text, end="", highlight=False)
                        if event.text:
                            is_midline = not event.text.endswith("\n")
                    case TurnEnd():
                        self.out.out("")
                        is_midline = False
                        self.out.print(
                            show.timings_lines(event, self.out.width), style="dim", soft_wrap=True
                        )
        finally:
            # A message about an error or an interruption starts on its own line.
            if is_midline:
                self.out.out("")

    def _conversation(self, client: Client) -> Session:
        return client.session(
            self.session,
            system=self.system,
            tools=self.tools,
            enable_thinking=self.thinking,
            chat_template_kwargs=self.template_kwargs,
        )

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Client]:
        async def connect() -> Client:
            return self.connection.client()

        with self._runner:
            # A channel belongs to the event loop that creates it.
            client = self._runner.run(connect())
            try:
                yield client
            finally:
                self._runner.run(client.close())


def error_line(error: SegueError) -> str:
    """An error as the command line shows it."""
    return f"[bold red]error[/] {escape(f'{type(error).__name__}: {error}')}"


def _introduce(prompt: TerminalPrompt, model: str) -> None:
    if model == _DEMO:
        prompt.show("The demo model knows little. It can answer, for example:")
        for suggestion in SUGGESTIONS:
            prompt.show(f"  {suggestion}")
    prompt.show("/help lists what can be typed; Ctrl-D or /exit ends the conversation.")
