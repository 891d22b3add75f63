"""Native code's output on standard error is captured, and no other output is lost."""

from __future__ import annotations

import os
import subprocess
import sys

from segue.process.native_stderr import captured_stderr


def test_native_output_is_captured_and_pythons_is_shown() -> None:
    """In a separate process, whose descriptor 2 no test runner holds."""
    code = """
import os, sys
from segue.process.native_stderr import captured_stderr

with captured_stderr() as native:
    os.write(2, b"noise\\n")
    print("shown", file=sys.stderr)
    os.write(2, b"more\\n")
    output = native()
os.write(2, b"native again\\n")
print("python again", file=sys.stderr)
print(repr(output))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == repr("noise\nmore\n")
    assert done.stderr.splitlines() == ["shown", "native again", "python again"]


def test_the_descriptor_is_restored_after_an_error() -> None:
    before = os.fstat(2)
    python_stderr = sys.stderr

    try:
        with captured_stderr():
            assert os.fstat(2).st_ino != before.st_ino
            raise LookupError
    except LookupError:
        pass

    assert os.fstat(2).st_ino == before.st_ino
    assert sys.stderr is python_stderr


def test_native_code_can_be_silenced_for_good_and_python_is_not() -> None:
    code = """
import os, sys
from segue.process.native_stderr import silence_native_stderr

silence_native_stderr()
os.write(2, b"noise\\n")
print("shown", file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stderr.splitlines() == ["shown"]
