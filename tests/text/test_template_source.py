from __future__ import annotations

import json
from pathlib import Path

import pytest

from segue.api.errors import InvalidCheckpoint
from segue.text.template.source import read_template_source


def write_config(folder: Path, **members: object) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(members))


def test_a_folder_without_a_template_has_none(tmp_path: Path) -> None:
    assert read_template_source(tmp_path) is None

    write_config(tmp_path, eos_token="<|im_end|>")
    assert read_template_source(tmp_path) is None


def test_the_template_file_takes_precedence_over_the_config(tmp_path: Path) -> None:
    write_config(tmp_path, chat_template="from config")
    (tmp_path / "chat_template.jinja").write_text("from file")

    source = read_template_source(tmp_path)

    assert source is not None
    assert source.plain == source.with_tools == "from file"
    assert source.origin.endswith("chat_template.jinja")


def test_a_config_may_hold_one_template(tmp_path: Path) -> None:
    write_config(tmp_path, chat_template="from config")

    source = read_template_source(tmp_path)

    assert source is not None
    assert source.plain == source.with_tools == "from config"


def test_a_config_may_name_a_template_for_tools(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    write_config(tmp_path, chat_template=named)

    source = read_template_source(tmp_path)

    assert source is not None
    assert (source.plain, source.with_tools) == ("a", "b")


def test_token_names_are_read_in_both_forms(tmp_path: Path) -> None:
    write_config(
        tmp_path, chat_template="x", eos_token="<e>", pad_token={"content": "<p>"}, bos_token=None
    )

    source = read_template_source(tmp_path)

    assert source is not None
    assert source.named_tokens == {"eos_token": "<e>", "pad_token": "<p>"}


def test_named_templates_without_a_default_are_refused(tmp_path: Path) -> None:
    write_config(tmp_path, chat_template=[{"name": "rag", "template": "a"}])

    with pytest.raises(InvalidCheckpoint, match='named "default", got rag'):
        read_template_source(tmp_path)


@pytest.mark.parametrize("value", [3, {"default": "a"}, [{"name": "default"}], ["a"]])
def test_a_template_of_another_type_is_refused(tmp_path: Path, value: object) -> None:
    write_config(tmp_path, chat_template=value)

    with pytest.raises(InvalidCheckpoint, match="a string, or a list of objects"):
        read_template_source(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_config_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer_config.json").write_text(text)

    with pytest.raises(InvalidCheckpoint, match=r"tokenizer_config\.json"):
        read_template_source(tmp_path)


def test_a_template_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")

    with pytest.raises(InvalidCheckpoint, match="cannot be read"):
        read_template_source(tmp_path)
