"""Input of `segue chat`: the prompt, the line editor's history, and lines that are commands.

Prompts and greetings are only for a terminal: there are none if the input is a file or a pipe. If
only the output is one, they go to stderr, so that the output holds only the answers.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

try:
    # Gives `input` line editing and a history. Some builds of Python lack it.
    import readline
except ImportError:
    readline = None  # type: ignore[assignment]

_MAX_HISTORY_LINES = 1000
_ENDINGS = ("/exit", "/quit", "/bye", "/q")
_HELP = """\
Each line is a message; empty lines are ignored.
  /help          shows this
  /exit, /quit   end the conversation, like Ctrl-D, or Ctrl-C at the prompt
  Ctrl-C         during an answer cancels it; the conversation continues without that turn
  ↑ ↓            earlier lines"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminalPrompt:
    """Reads a conversation's lines. `out` is stdout, `err` is stderr."""

    out: Console
    err: Console
    has_person: bool = field(default_factory=lambda: sys.stdin.isatty())
    is_shown: bool = field(default_factory=lambda: sys.stdout.isatty())

    def show(self, text: str) -> None:
        """Prints text other than answers, if there is a person."""
        if self.has_person:
            console = self.out if self.is_shown else self.err
            console.print(f"[dim]{text}[/]", soft_wrap=True)

    def messages(self) -> Iterator[str]:
        """The messages to answer, line by line, until the conversation ends."""
        while (line := self._next_line()) is not None:
            if line in _ENDINGS:
                return
            if self.has_person and line == "/help":
                self.show(_HELP)
            elif self.has_person and re.fullmatch("/[a-z]*", line):
                self.show(f"unknown command {line}; /help lists the commands")
            elif line:
                yield line

    def _next_line(self) -> str | None:
        """None if the conversation ends."""
        try:
            return self._read().strip()
        except EOFError:
            self._end_line()
        except KeyboardInterrupt:
            if not self.has_person:
                raise
            self._end_line()
        return None

    def _read(self) -> str:
        if self.has_person and self.is_shown:
            return input(_styled_prompt(self.out))
        if self.has_person:
            self.err.print("you ", end="")
        return input()

    def _end_line(self) -> None:
        # The shell's prompt starts on its own line.
        if self.has_person:
            (self.out if self.is_shown else self.err).print()


def _styled_prompt(out: Console) -> str:
    if not (out.is_terminal and readline):
        return "you "
    # The line editor must know which characters of its prompt take no space.
    return "\001\033[1m\002you\001\033[0m\002 "


@contextlib.contextmanager
def line_history(keeps_history: bool) -> Iterator[None]:
    """The arrow keys recall earlier lines, also in a later conversation.

    A history that cannot be read or written does not stop the conversation.
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
            # Readable only by its owner.
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
