"""Counts a checkout's code: files, folders over ten files, classes, lines of code.

`python -m scripts.counts [ROOT]`. Tests and generated code are left out. Lines of code are those
with more than a comment or a docstring. Subsystems that are newer than commit 2a269d0 are listed
separately, so that the rest can be compared with it.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from pathlib import Path
from typing import NamedTuple

LATER = {
    "the gateway": (
        "segue/gateway",
        "benchmarks/gateway",
        "benchmarks/agents",
        "benchmarks/load/over_http.py",
        "scripts/http_fields.py",
    ),
    "structured output": (
        "segue/grammar",
        "segue/api/output.py",
        "segue/wire/convert/output.py",
        "segue/worker/grammars.py",
        "segue/kernels/sampling/masks.py",
        "router/sessions/grammars.py",
        "benchmarks/structured.py",
    ),
    "parsers of answers": (
        "segue/answers/parser.py",
        "segue/answers/reasoning.py",
        "segue/answers/formats.py",
        "segue/answers/tool_calls/hermes.py",
    ),
    "security": (
        "segue/security",
        "segue/wire/security",
        "kv_transfer/transport/loopback_filter.py",
        "benchmarks/tls.py",
        "scripts/test_ca.py",
    ),
    "tenants and limits": (
        "router/tenants",
        "router/admission/waiting.py",
        "segue/api/api_key.py",
        "benchmarks/load/tenants.py",
    ),
    "found sessions": ("router/sessions/finding.py",),
    "drains": (
        "router/drain",
        "decode_worker/memory/adoption.py",
        "decode_worker/memory/moving.py",
        "segue/api/cluster/drain.py",
        "segue/wire/convert/drain.py",
        "segue/wire/membership_calls.py",
        "segue/worker/drain.py",
        "segue/cli/operate.py",
    ),
    "resumed turns": ("router/turn/answered.py", "router/turn/ongoing.py", "segue/sdk/turns.py"),
    "several routers": (
        "router/membership/kept.py",
        "segue/api/cluster/kept.py",
        "segue/cache/inventory.py",
        "segue/wire/convert/kept.py",
        "segue/sdk/targets.py",
        "benchmarks/inventory.py",
    ),
    "scored prompts": ("segue/engine/scoring.py",),
    "upgrades": ("segue/upgrade", "segue/cli/upgrade.py"),
    "watchdog and epochs": (
        "segue/worker/watchdog.py",
        "segue/worker/membership/identity.py",
    ),
    "deployment": ("router/telemetry", "scripts/dashboards", "scripts/helm.py"),
    "traces": (
        "segue/process/tracing",
        "prefill_worker/traces.py",
        "decode_worker/traces.py",
        "benchmarks/traces.py",
        "scripts/traces.py",
    ),
    "scaling": (
        "segue/launch/scale",
        "segue/cli/live/scale.py",
        "segue/api/cluster/fleet.py",
        "segue/sdk/operator_calls.py",
        "router/orders.py",
    ),
    "segue top": ("segue/cli/live/top.py", "segue/cli/live/frame.py"),
    "ranks": (
        "segue/parallel",
        "segue/model/ranks",
        "segue/launch/ray/ranks",
        "segue/worker/ranks",
        "kv_transfer/ranks",
        "segue/cache/parts.py",
        "segue/kernels/rank_sum",
    ),
    "quantised weights": (
        "segue/model/weights",
        "segue/kernels/quantized_product",
        "segue/kernels/scaled_product",
        "segue/kernels/mixed_experts",
        "benchmarks/gpu/cases/stored.py",
        "benchmarks/gpu/cases/scaled.py",
        "benchmarks/quantization.py",
        "scripts/quantize.py",
    ),
    "GPU steps in few launches": (
        "segue/kernels/compiling.py",
        "segue/kernels/decode_step",
        "segue/kernels/dependent_launch",
        "segue/kernels/gated_delta_step",
        "segue/kernels/attention_input/triton_heads.py",
        "segue/kernels/causal_conv/triton_decode.py",
        "segue/kernels/gated_delta_rule/triton_parts.py",
        "segue/kernels/sampling/triton_few.py",
        "segue/kernels/sampling/triton_list.py",
        "benchmarks/gpu/cases/decode_step.py",
    ),
    "FlashInfer": (
        "segue/kernels/paged_attention/flashinfer",
        "segue/engine/device/prompt_attention.py",
        "benchmarks/gpu/flashinfer.py",
    ),
    "GPU benchmark in processes": (
        "benchmarks/gpu/process",
        "benchmarks/gpu/plan.py",
        "benchmarks/gpu/bars.py",
    ),
    "the budget": ("benchmarks/budget",),
    "operators in C++": (
        "segue/kernels/native",
        "segue/kernels/product",
        "segue/kernels/scratch.py",
        *(
            f"segue/kernels/{operator}/native.py"
            for operator in (
                "attention_input",
                "causal_conv",
                "gated_delta_rule",
                "gates",
                "moe",
                "paged_attention",
                "rms_norm",
            )
        ),
    ),
    "cores and heaps": (
        "segue/process/cores.py",
        "segue/process/control_groups.py",
        "segue/process/heap.py",
    ),
    "stored responses": ("router/documents.py",),
    "other engines": (
        "benchmarks/peers",
        "benchmarks/long_context.py",
        "benchmarks/long_session.py",
        "benchmarks/neighbours.py",
    ),
    "these counts": ("scripts/counts.py",),
}
_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
_MAX_FILES = 10
_KNOWN, _ALL = "in 2a269d0", "total"


class Count(NamedTuple):
    files: int = 0
    """Without `__init__.py`."""
    classes: int = 0
    code_lines: int = 0

    def plus(self, other: Count) -> Count:
        return Count(*map(sum, zip(self, other, strict=True)))


def counted(name: str, source: str) -> Count:
    nodes = list(ast.walk(ast.parse(source)))
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in _NO_CODE
        for line in range(token.start[0], token.end[0] + 1)
    }
    for node in nodes:
        match node:
            case ast.Expr(ast.Constant(str()), lineno=first, end_lineno=last):
                lines.difference_update(range(first, (last or first) + 1))
    num_classes = sum(isinstance(node, ast.ClassDef) for node in nodes)
    return Count(name != "__init__.py", num_classes, len(lines))


def subsystem_of(path: str) -> str:
    """The later subsystem that a file belongs to, if it does."""
    for name, places in LATER.items():
        if any(path == place or path.startswith(f"{place}/") for place in places):
            return name
    return _KNOWN


def python_files(root: Path) -> list[str]:
    """Tracked, without tests and generated code."""
    listed = subprocess.run(
        ["git", "-C", root, "ls-files", "*.py"], capture_output=True, text=True, check=True
    )
    files = [file for file in listed.stdout.split() if (root / file).is_file()]
    return [file for file in files if not file.startswith("tests/") and "_pb2" not in file]


def files_of_a_turn(root: Path) -> int:
    """The source files that the description of a turn names."""
    text = (root / "docs" / "request.md").read_text()
    return len(set(re.findall(r"[\w/]+/\w+\.py", text)))


def report(root: Path) -> str:
    files_in: Counter[Path] = Counter()
    parts = {name: Count() for name in (_KNOWN, *LATER)}
    for file in python_files(root):
        count = counted(Path(file).name, (root / file).read_text())
        files_in[Path(file).parent] += count.files
        for name in (subsystem_of(file), _ALL):
            parts[name] = parts.get(name, Count()).plus(count)
    rows = [f"{'':24}{'files':>7}{'classes':>9}{'code lines':>12}"]
    rows += [
        f"{name:24}{of.files:7,}{of.classes:9,}{of.code_lines:12,}" for name, of in parts.items()
    ]
    crowded = sum(num > _MAX_FILES for num in files_in.values())
    rows += [
        f"folders over ten files: {crowded}",
        f"files that a turn passes: {files_of_a_turn(root)}",
    ]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.stdout.write(report(Path(sys.argv[1] if len(sys.argv) > 1 else ".")))
