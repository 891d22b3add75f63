"""Rounds of the same prompts to every side, one side at a time, in an order that rotates."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.harness.output import Report
from benchmarks.harness.samples import Answered
from benchmarks.peers.process import RunningSubject

_VOCAB_SIZE = 248_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    prompt_lengths: tuple[int, ...] = (512, 2048)
    """In tokens; each alone, for one token."""
    turns_together: tuple[int, ...] = (1, 4)
    """Turns of short prompts, asked at once, whose decoding is measured."""
    short_prompt_tokens: int = 32
    answer_tokens: int = 49
    runs: int = 3
    """Rounds of each start."""


QUICK = Workload(prompt_lengths=(64, 128), turns_together=(1, 2), answer_tokens=9, runs=1)


@dataclass(frozen=True, slots=True)
class Side:
    name: str
    subject: RunningSubject
    is_suffix: bool = False
    """Prompts continue a session. See benchmarks/peers/subjects/cluster.py."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One side's answers to one question of one round."""

    side: str
    prompt_tokens: int
    turns: int
    round_number: int
    answers: Sequence[Answered]
    note: str


class Asker:
    def __init__(self, sides: Sequence[Side], workload: Workload, report: Report) -> None:
        self._sides = sides
        self._workload = workload
        self._report = report
        self._numbers = itertools.count()

    def warm_up(self) -> None:
        """First passes allocate, choose and compile."""
        work = self._workload
        for side in self._sides:
            self._report(f"warming up {side.name}")
            for turns, num_tokens, size in [
                *((1, 2, length) for length in work.prompt_lengths),
                *((turns, 4, work.short_prompt_tokens) for turns in work.turns_together),
            ]:
                prompts = self._prompts(turns, size)
                side.subject.ask(prompts, num_tokens, is_suffix=side.is_suffix)

    def rounds(self, first: int = 0) -> list[Sample]:
        """`first`: the number of the first round."""
        work = self._workload
        samples: list[Sample] = []
        for number in range(first, first + work.runs):
            self._report(f"run {number + 1}")
            for length in work.prompt_lengths:
                samples += self._everyone(self._prompts(1, length), 1, number)
            for turns in work.turns_together:
                prompts = self._prompts(turns, work.short_prompt_tokens)
                samples += self._everyone(prompts, work.answer_tokens, number)
        return samples

    def _everyone(
        self, prompts: Sequence[Sequence[int]], num_tokens: int, number: int
    ) -> list[Sample]:
        first = number % len(self._sides)
        samples = []
        for side in [*self._sides[first:], *self._sides[:first]]:
            answers, note = side.subject.ask(prompts, num_tokens, is_suffix=side.is_suffix)
            samples.append(
                Sample(
                    side=side.name,
                    prompt_tokens=len(prompts[0]),
                    turns=len(prompts),
                    round_number=number,
                    answers=answers,
                    note=note,
                )
            )
        return samples

    def _prompts(self, turns: int, num_tokens: int) -> list[list[int]]:
        """New ones at each call, and the same calls give the same ones in every run."""
        draw = random.Random(f"{next(self._numbers)}/{num_tokens}")
        return [[draw.randrange(_VOCAB_SIZE) for _ in range(num_tokens)] for _ in range(turns)]
