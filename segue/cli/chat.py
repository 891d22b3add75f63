"""`segue chat`: a conversation, line by line, with the timings under each answer.

The event loop runs during a turn only. At the prompt it stands still, so that Ctrl-C there is an
ordinary KeyboardInterrupt, while Ctrl-C during an answer cancels that answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from segue.cli import show
from segue.cli.input import SamplingOptions
from segue.client import Client, Session, TokenDelta, TurnEnd
from segue.demo import SUGGESTIONS
from segue.errors import SegueError

try:
    # Gives `input` line editing and a history. Not every build of Python has it.
    import readline
except ImportError:
    readline = None  # type: ignore[assignment]

_MAX_HISTORY_LINES = 1000
_DEMO = "demo"
"""The name of the bundled checkpoint, as `segue.model.source` has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """What a conversation was asked for with."""

    target: str
    session: str | None
    system: str
    tools: Sequence[str]
    thinking: bool | None = None
    template_kwargs: str = ""
    options: SamplingOptions
    out: Console
    err: Console
    keeps_history: bool = True
    _runner: asyncio.Runner = field(default_factory=asyncio.Runner)

    def say(self, prompt: str) -> None:
        """One turn. Raises SegueError."""
        with self._connected() as client:
            self._runner.run(_say(self.out, self._conversation(client), prompt, self.options))

    def talk(self) -> None:
        """Turns until an empty line, Ctrl-D, or Ctrl-C at the prompt. Raises SegueError."""
        with self._connected() as client:
            model = self._runner.run(client.status()).model
            self._introduce(model)
            conversation = self._conversation(client)
            with _line_history(self.keeps_history):
                while line := _ask(self.out):
                    self._take_turn(conversation, line)

    def _take_turn(self, conversation: Session, line: str) -> None:
        try:
            self._runner.run(_say(self.out, conversation, line, self.options))
        except KeyboardInterrupt:
            self.out.print("\n[dim]cancelled; the conversation goes on without this turn[/]")
        except SegueError as error:
            # Somebody at a terminal may ask something else; a script must learn of it.
            if not sys.stdin.isatty():
                raise
            self.err.print(error_line(error), soft_wrap=True)

    def _introduce(self, model: str) -> None:
        if model == _DEMO:
            self.out.print("[dim]The demo model knows little. It can answer, for example:[/]")
            for suggestion in SUGGESTIONS:
                self.out.print(f"[dim]  {suggestion}[/]")
        self.out.print("[dim]An empty line, Ctrl-C or Ctrl-D ends the conversation.[/]")

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
            return Client(self.target)

        with self._runner:
            # A channel belongs to the loop in which it is made.
            client = self._runner.run(connect())
            try:
                yield client
            finally:
                self._runner.run(client.close())


def error_line(error: SegueError) -> str:
    """An error as the command line shows it."""
    return f"[bold red]error[/] {escape(f'{type(error).__name__}: {error}')}"


async def _say(out: Console, conversation: Session, text: str, options: SamplingOptions) -> None:
    async for event in conversation.turn(text, sampling=options.sampling(), stop=options.stop()):
        match event:
            case TokenDelta():
                out.out(event.text, end="", highlight=False)
            case TurnEnd():
                out.out("")
                out.print(show.timings_lines(event, out.width), style="dim", soft_wrap=True)


def _ask(out: Console) -> str:
    """The user's next line; empty when the conversation ends."""
    try:
        return input(_prompt(out)).strip()
    except (EOFError, KeyboardInterrupt):
        # The shell's prompt begins on a line of its own.
        out.print()
        return ""


def _prompt(out: Console) -> str:
    if not (out.is_terminal and readline):
        return "you "
    # The line editor must know which characters of its prompt take no room.
    return "\001\033[1m\002you\001\033[0m\002 "


@contextlib.contextmanager
def _line_history(keeps_history: bool) -> Iterator[None]:
    """What was typed before can be recalled with the arrow keys, also in a later conversation.

    A history that cannot be read or written is no reason not to talk.
    """
    file = _history_file()
    if readline is None or file is None or not (keeps_history and sys.stdin.isatty()):
        yield
        return
    with contextlib.suppress(OSError):
        readline.read_history_file(file)
    try:
        yield
    finally:
        readline.set_history_length(_MAX_HISTORY_LINES)
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            # Nobody else's business.
            file.touch(mode=0o600)
            readline.write_history_file(file)


def _history_file() -> Path | None:
    """In the user's state folder; None for a user without a home."""
    if state := os.environ.get("XDG_STATE_HOME"):
        return Path(state) / "segue" / "chat_history"
    try:
        return Path.home() / ".local" / "state" / "segue" / "chat_history"
    except RuntimeError:
        return None
