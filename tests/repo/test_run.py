"""`./run` with a fake server and client: what it leaves behind when it is ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Replaces segue.
PLAYED = """#!/bin/bash
case $1 in
  serve) echo "ready at 127.0.0.1:7 after 1 s"; trap 'exit 0' TERM
         while :; do sleep 0.05; done ;;
  chat) echo "answer from $3"
        for _ in {1..200}; do kill -0 $PPID 2>/dev/null || exit 0; sleep 0.05; done ;;
esac
"""


def test_the_temporary_folder_is_empty_while_it_runs(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    for folder in ("scripts", ".venv/bin", "temporary"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "run", tmp_path / "run")
    for name, text in (("scripts/setup", "#!/bin/sh\n"), (".venv/bin/segue", PLAYED)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(
        [str(tmp_path / "run")], env=environment, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        output = [running.stdout.readline() for _ in range(4)]
        left = list(temporary.iterdir())
        running.send_signal(signal.SIGTERM)
        running.wait(30)

    assert output[0].startswith("ready at 127.0.0.1:7 ")
    assert output[3] == "answer from 127.0.0.1:7\n"
    # From here on, however it ends.
    assert left == []
