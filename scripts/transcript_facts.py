"""The facts of a transcript that are the same in every run: commands, answers, the form of tables.

Times, speeds, bytes, addresses, memory in use and a turn's workers differ.
"""

from __future__ import annotations

import json
import re

_UNITS = r"(?:ms|µs|s|tokens?/s|KiB)"
_RULES = (
    # The report under an answer. Either worker may compute a prompt's suffix.
    (r"prefill-\d+ → decode-\d+", "workers"),
    (r"· decode-\d+ ·", "· workers ·"),
    (r" \(\d+ reused\)", ""),
    (r" \(\d+ of \d+ drafts accepted\)", ""),
    (rf"\d+(?:\.\d+)? {_UNITS}\b", "#"),
    (r"(queue|prefill|transfer|exposed) [\d.]+", r"\1 #"),
    (r"· - ·", "· # ·"),
    # The head of `segue status`.
    (r"\d+ (turn|session)s?\b( running)?", r"# \1s\2"),
    (r"\d+ (finished)", r"# \1"),
    (r", (\d+) resident", ", # resident"),
    (r"127\.0\.0\.1:\d+", "#"),
)
_CANDIDATE = re.compile(r"[▶ ] (compute|local|pull) +(\S+)")
_WORKER = re.compile(r"((?:prefill|decode)-\d+) +(ready|draining|lost) ")
# Line breaks that depend on the length of numbers.
_BREAK = re.compile(
    r"\n(?=first after |(?:prefill-\d+ → )?decode-\d+ · |\d+ sessions? · |stop · first after )"
)


def facts(transcript: str) -> list[str]:
    """One line per fact. Transcripts with equal facts are equivalent for a reader."""
    lines: list[str] = []
    for line in _BREAK.sub(" · ", transcript).splitlines():
        if found := _CANDIDATE.match(line):
            lines.append(f"candidate {found[1]} {found[2]}")
        elif found := _WORKER.match(line):
            lines.append(" ".join((found[1], found[2], *re.findall(r"/\d+ free", line))))
        elif line.startswith("{") and '"token_ids"' in line:
            lines += _answer_facts(json.loads(line))
        elif not re.match(r"  +\d+ (?:waiting|running|tok/s|cached)", line):
            lines.append(_masked(line))
    return _sorted_candidates(lines)


def _masked(line: str) -> str:
    line = re.sub(r"\s+", " ", line.strip())
    if line.startswith("mode workers tokens"):
        # A column is left out if it is 0 for every candidate.
        return "mode workers tokens … total"
    if re.match(r"(?:prefill|decode)-\d+ [\d.]+ \+ ", line):
        return re.sub(r"\d+\.\d+", "#", line)
    for pattern, replacement in _RULES:
        line = re.sub(pattern, replacement, line)
    return line


def _answer_facts(answer: dict[str, object]) -> list[str]:
    """Facts of the object that `segue generate --json` prints."""
    same = {name: answer[name] for name in ("text", "token_ids", "finish_reason")}
    members = {
        name: sorted(value) if isinstance(value, dict) else None for name, value in answer.items()
    }
    return [json.dumps(same, ensure_ascii=False), json.dumps(members)]


def _sorted_candidates(lines: list[str]) -> list[str]:
    """Sorts candidates: which one is best and comes first depends on measured times."""
    candidates = sorted(line for line in lines if line.startswith("candidate "))
    return [candidates.pop(0) if line.startswith("candidate ") else line for line in lines]
