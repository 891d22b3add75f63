"""Records the transcripts in README.md from a run: `python -m scripts.transcripts [--check]`.

It starts a cluster on the demo model in a pseudo-terminal of 80 columns, types the README's
commands and writes the output between the markers. With --check it only compares, ignoring what
differs from run to run (`scripts/transcript_facts.py`), and exits with 1 if the README is stale.
Writing runs `./run` itself; checking runs only the commands in it, so that nothing is installed.
"""

from __future__ import annotations

import difflib
import re
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from scripts.terminal import CTRL_D, Start, Terminal, terminal
from scripts.transcript_facts import facts

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DEFAULT_TARGET = "127.0.0.1:7411"
START_TIMEOUT_S = 600.0
GREETING = "Hello! Who are you?"
"""The question that `./run` asks first."""
QUESTIONS = (
    "My name is Anna and I live in Lisbon.",
    "Count from 1 to 60.",
    "Where do I live?",
)
SESSION = "agent-7"
FILES = {
    "weather.json": (
        '{"messages": [{"role": "user", "content": "What is the weather in Reykjavik?"}],\n'
        ' "tools": [{"type": "function", "function": {"name": "get_weather",\n'
        '  "description": "The weather in a city.", "parameters": {"type": "object",\n'
        '  "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]}\n'
    ),
    "question.json": '[{"role": "user", "content": "What is the router?"}]\n',
}
COMMANDS = (
    f"segue chat --session {SESSION} 'My code is 90210.'",
    f"segue explain {SESSION}",
    "cat weather.json",
    "segue generate --messages weather.json",
    "cat question.json",
    "segue generate --messages question.json --json",
    "segue status",
)


_READY = re.compile(r"ready at (\S+) .*\n")


def main(check: Annotated[bool, typer.Option("--check", help="Compare only.")] = False) -> None:
    """Records the transcripts in README.md from a run."""
    text = README.read_text()
    made = recorded(text, with_setup=not check)
    if not check:
        README.write_text(with_blocks(text, made))
        return
    stale = differences(blocks_of(text), made)
    if stale:
        typer.echo("\n".join(stale))
        typer.echo("README.md is stale: run python -m scripts.transcripts", err=True)
        raise typer.Exit(1)


def recorded(readme: str, *, with_setup: bool) -> dict[str, str]:
    """The text of each block of the README, from a run of `./run`, or of the commands in it."""
    command = ["./run"] if with_setup else ["segue", "serve"]
    with terminal([*command, "--port", "0", "--http-port", "0"], cwd=ROOT) as server:
        server.wait_for("ready at ", timeout_s=START_TIMEOUT_S)
        server.wait_for(")\n")
        found = _READY.search(server.screen)
        assert found is not None
        if not with_setup:
            return recorded_at(readme, found[0])
        _converse(server, found.end())
        blocks = _blocks(readme, found[1], _since(server, found.start(), "./run"))
        server.type(CTRL_D)
        server.wait_for_end()
        return blocks


def recorded_at(readme: str, ready: str, start: Start | None = None) -> dict[str, str]:
    """The same on a cluster that has just started and printed the line `ready`. `start`: starts
    commands of `segue`; as new processes if not given."""
    found = _READY.match(ready)
    assert found is not None, ready
    target = found[1]
    greeting = _output(f"segue chat '{GREETING}'", target, ROOT, start)
    with terminal(["segue", "chat", "--no-history", "--target", target], start=start) as chat:
        _converse(chat, 0)
        shown = f"$ ./run\n{ready}\nyou {GREETING}\n{greeting}"
        blocks = _blocks(readme, target, f"{shown}{_since(chat, 0, '')}", start)
        chat.type(CTRL_D)
        chat.wait_for_end()
    return blocks


def _blocks(
    readme: str, target: str, conversation: str, start: Start | None = None
) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in FILES.items():
            (Path(folder) / name).write_text(content)
        shown = [f"$ {one}\n{_output(one, target, Path(folder), start)}" for one in COMMANDS]
    blocks = {
        "conversation": conversation,
        "commands": "\n".join(shown),
        "sdk": _python(snippet_of(readme), target),
    }
    return {name: _as_shown(text, target) for name, text in blocks.items()}


def _converse(chat: Terminal, since: int) -> None:
    position = chat.wait_for("ends the conversation.\n", since=since)
    for question in QUESTIONS:
        position = chat.wait_for("you ", since=position)
        chat.type(f"{question}\n")
        # The last word of the report under an answer.
        position = chat.wait_for("exposed ", since=position)
    chat.wait_for("\nyou ", since=position)


def _since(screen: Terminal, start: int, command: str) -> str:
    shown = screen.screen[start:].removesuffix("you ")
    return f"$ {command}\n{shown}" if command else shown


def _output(command: str, target: str, folder: Path, start: Start | None) -> str:
    """A command's output. The router's address is passed, but not shown."""
    words = shlex.split(command)
    if words[0] == "segue":
        words += ["--target", target]
    else:
        start = None
    with terminal(words, cwd=folder, start=start) as screen:
        status = screen.wait_for_end()
    if status:
        raise RuntimeError(f"{command!r} exited with {status}: {screen.screen}")
    return screen.screen


def _python(snippet: str, target: str) -> str:
    with terminal([sys.executable, "-c", snippet.replace(DEFAULT_TARGET, target)]) as screen:
        status = screen.wait_for_end()
    if status:
        raise RuntimeError(f"the README's program exited with {status}: {screen.screen}")
    return screen.screen


def _as_shown(text: str, target: str) -> str:
    lines = text.replace(target, DEFAULT_TARGET).splitlines()
    return "\n".join(line.rstrip() for line in lines).strip() + "\n"


_BLOCK = r"(<!-- transcript: {} -->\n```\n)(.*?)(```\n<!-- end -->)"


def blocks_of(readme: str) -> dict[str, str]:
    """The README's transcripts by name."""
    return {found[2]: found[3] for found in re.finditer(_BLOCK.format(r"(\w+)"), readme, re.S)}


def with_blocks(readme: str, blocks: dict[str, str]) -> str:
    """The README with these transcripts. Raises ValueError if the markers for one are missing."""
    for name, text in blocks.items():
        found = re.search(_BLOCK.format(name), readme, re.S)
        if found is None:
            raise ValueError(f"README.md has no markers for the transcript {name!r}")
        start, end = found.span(2)
        readme = readme[:start] + text + readme[end:]
    return readme


def snippet_of(readme: str) -> str:
    """The README's Python program; its transcript follows it."""
    found = re.search(r"```python\n(.*?)```", readme, re.S)
    if found is None:
        raise ValueError("README.md has no Python program")
    return found[1]


def differences(shown: dict[str, str], made: dict[str, str]) -> list[str]:
    """The README's stale lines as a diff; empty if it is up to date."""
    lines: list[str] = []
    for name in sorted(shown.keys() | made.keys()):
        ours, theirs = facts(shown.get(name, "")), facts(made.get(name, ""))
        lines += difflib.unified_diff(ours, theirs, f"README {name}", f"run {name}", lineterm="")
    return lines


if __name__ == "__main__":
    typer.run(main)
