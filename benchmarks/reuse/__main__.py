"""`python -m benchmarks.reuse`: cached tokens of later turns, compared with the bound, for each
length.

Prints tables; the last line of stdout is one JSON object with every number. The prompts and a
prefill worker's memory are real, but there is no model and nothing is computed.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.harness.environment import this_environment
from benchmarks.harness.output import progress, show, show_json
from benchmarks.reuse.pressure import Pressure, press
from benchmarks.reuse.show import Sweep, pressure_table, sweep_table
from benchmarks.reuse.sweep import Reuse, sweep_chats, sweep_ids
from segue.demo import checkpoint_dir
from segue.text.chat import ChatTemplate
from segue.text.prompt import PromptEncoder
from segue.text.template.source import TemplateSource
from segue.text.tokens.tokenizer import Tokenizer

_WIDTH = 160
_PRESSURES = ((96, 20), (48, 20), (24, 20), (8, 4))


def main(
    tokenizer: Annotated[
        Path | None, typer.Option(help="A folder with tokenizer.json; default: the demo's.")
    ] = None,
    template: Annotated[
        list[Path] | None, typer.Option(help="A chat template; may be given several times.")
    ] = None,
) -> None:
    """Tries every length of a first prompt modulo the page, with eleven turns after it."""
    report = progress()
    folder = tokenizer or checkpoint_dir()
    words = Tokenizer.from_folder(folder)
    encoders = {path.stem: _encoder(words, path) for path in template or []}
    encoders = encoders or {"demo": PromptEncoder.from_folder(folder)}
    sweeps: list[Sweep] = []
    for name, encoder in encoders.items():
        for enable_thinking in (False, True):
            turns = asyncio.run(sweep_chats(encoder, enable_thinking=enable_thinking))
            sweeps.append(Sweep(name, "on" if enable_thinking else "off", turns))
            report(name)
    sweeps.append(Sweep("token ids", "", asyncio.run(sweep_ids(next(iter(encoders.values()))))))
    pressures = [
        asyncio.run(press(num_slots=slots, num_sessions=sessions, num_turns=40))
        for slots, sessions in _PRESSURES
    ]
    show([sweep_table(sweeps), pressure_table(pressures)], width=_WIDTH)
    result = {
        "environment": asdict(this_environment()),
        "sweeps": [
            {"template": s.template, "thinking": s.thinking, "turns": list(map(_numbers, s.turns))}
            for s in sweeps
        ],
        "pressures": list(map(_summary, pressures)),
    }
    show_json(result)


def _encoder(tokenizer: Tokenizer, path: Path) -> PromptEncoder:
    source = path.read_text("utf-8")
    template_source = TemplateSource(plain=source, with_tools=source)
    return PromptEncoder(tokenizer, ChatTemplate(template_source, tokenizer.marks))


def _numbers(turn: Reuse) -> list[int]:
    """First prompt, turn, prompt, shared, cached, bound."""
    return [
        *(turn.first_tokens, turn.turn, turn.prompt_tokens),
        *(turn.shared_tokens, turn.cached_tokens, turn.bound),
    ]


def _summary(pressure: Pressure) -> dict[str, int]:
    return {
        "num_slots": pressure.num_slots,
        "num_sessions": pressure.num_sessions,
        "turns": len(pressure.turns),
        "missed_turns": pressure.missed_turns,
        "missed_tokens": pressure.missed_tokens,
    }


if __name__ == "__main__":
    typer.run(main)
