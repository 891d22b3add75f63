"""Without the development dependencies, the demo model's tools report that in one line."""

from __future__ import annotations

import runpy
import sys

import pytest


@pytest.mark.parametrize("module", ["evaluate", "train", "train_mtp"])
def test_a_tool_without_transformers_names_the_extra(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    for name in [name for name in sys.modules if name.startswith("segue.demo.")]:
        monkeypatch.delitem(sys.modules, name)

    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"segue.demo.{module}", run_name="__main__")

    message = str(ended.value.code)
    assert message.startswith("this needs transformers, which the development set-up installs")
    assert len(message.splitlines()) == 1
