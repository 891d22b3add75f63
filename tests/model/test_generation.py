"""A folder's defaults: the files that define them, and their precedence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from segue.api.errors import InvalidCheckpoint
from segue.api.types import SamplingParams
from segue.demo import checkpoint_dir
from segue.model.checkpoint.generation import GenerationDefaults

VOCABULARY = {"<|endoftext|>": 248044, "<|im_end|>": 248046}


def folder_with(
    folder: Path,
    *,
    config: dict[str, object] | None = None,
    generation: dict[str, object] | str | None = None,
    tokenizer: dict[str, object] | None = None,
) -> Path:
    files = {
        "config.json": {"eos_token_id": 248044} if config is None else config,
        "generation_config.json": generation,
        "tokenizer_config.json": tokenizer,
    }
    for name, content in files.items():
        if content is not None:
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / name).write_text(text)
    return folder


def read(folder: Path, *, with_file: bool = True) -> GenerationDefaults:
    return GenerationDefaults.from_folder(folder, token_id=VOCABULARY.get, with_file=with_file)


PUBLISHED = {
    "do_sample": True,
    "eos_token_id": [248046, 248044],
    "pad_token_id": 248044,
    "temperature": 0.6,
    "top_k": 20,
    "top_p": 0.95,
    "repetition_penalty": 1.05,
    "min_p": 0.0,
}


def test_a_published_folder_has_sampling_values_and_end_tokens(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, generation=PUBLISHED)

    assert read(folder) == GenerationDefaults(
        sampling=SamplingParams(
            temperature=0.6, top_k=20, top_p=0.95, repetition_penalty=1.05, min_p=0.0
        ),
        end_ids=(248046, 248044),
    )


def test_the_file_can_be_ignored(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, generation=PUBLISHED, tokenizer={"eos_token": "<|im_end|>"})

    assert read(folder, with_file=False) == GenerationDefaults(end_ids=(248044, 248046))


@pytest.mark.parametrize(
    "eos_token", ["<|im_end|>", {"content": "<|im_end|>", "special": True, "__type": "AddedToken"}]
)
def test_without_the_file_a_chat_ends_at_the_tokenizers_end_token(
    tmp_path: Path, eos_token: object
) -> None:
    folder = folder_with(tmp_path, tokenizer={"eos_token": eos_token})

    assert read(folder).end_ids == (248044, 248046)


def test_without_end_tokens_in_the_file_other_files_are_read(tmp_path: Path) -> None:
    folder = folder_with(
        tmp_path,
        generation={"temperature": 0.7, "eos_token_id": None},
        tokenizer={"eos_token": "<|im_end|>"},
    )

    assert read(folder) == GenerationDefaults(
        sampling=SamplingParams(temperature=0.7), end_ids=(248044, 248046)
    )


def test_a_multimodal_config_has_end_tokens_in_its_text_config(tmp_path: Path) -> None:
    folder = folder_with(
        tmp_path,
        config={"text_config": {"eos_token_id": [248044]}},
        tokenizer={"eos_token": "<|im_end|>"},
    )

    assert read(folder).end_ids == (248044, 248046)


def test_an_older_folder_has_the_id_of_its_end_token_without_a_vocabulary(tmp_path: Path) -> None:
    added = {"248044": {"content": "<|endoftext|>"}, "248046": {"content": "<|im_end|>"}}
    folder = folder_with(
        tmp_path, config={}, tokenizer={"eos_token": "<|im_end|>", "added_tokens_decoder": added}
    )

    assert GenerationDefaults.from_folder(folder).end_ids == (248046,)


@pytest.mark.parametrize("tokenizer", [None, {}, {"eos_token": None}, {"eos_token": "<unknown>"}])
def test_without_a_tokenizers_end_token_that_of_the_config_remains(
    tmp_path: Path, tokenizer: dict[str, object] | None
) -> None:
    assert read(folder_with(tmp_path, tokenizer=tokenizer)).end_ids == (248044,)


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        ({}, SamplingParams()),
        ({"do_sample": False, "top_p": 0.9}, SamplingParams(temperature=0.0, top_p=0.9)),
        ({"do_sample": False, "temperature": 0.9}, SamplingParams(temperature=0.0)),
        ({"do_sample": True}, SamplingParams(temperature=1.0)),
        ({"temperature": 0.5}, SamplingParams(temperature=0.5)),
        ({"do_sample": True, "temperature": 0}, SamplingParams(temperature=0.0)),
        ({"temperature": None, "top_k": None}, SamplingParams()),
        ({"temperature": 1, "top_k": -1}, SamplingParams(temperature=1, top_k=0)),
        ({"temperature": 1, "top_k": 20.0}, SamplingParams(temperature=1, top_k=20)),
    ],
)
def test_sampling_values_are_converted(
    tmp_path: Path, generation: dict[str, object], expected: SamplingParams
) -> None:
    assert read(folder_with(tmp_path, generation=generation)).sampling == expected


@pytest.mark.parametrize(
    ("generation", "message"),
    [
        ("{not json", "cannot be read as JSON"),
        ("[]", "must hold a JSON object"),
        ({"temperature": "hot"}, "temperature must be a number, got 'hot'; .*--generation-config"),
        ({"temperature": True}, "temperature must be a number, got True"),
        ({"top_p": 2}, "top_p must be between 0 and 1, got 2; correct the file, or ignore it"),
        ({"do_sample": "no"}, "do_sample must be true or false, got 'no'"),
        ({"eos_token_id": [-1]}, r"eos_token_id must be token ids, got \[-1\]"),
        ({"eos_token_id": "<|im_end|>"}, "eos_token_id must be token ids"),
        ({"eos_token_id": True}, "eos_token_id must be token ids"),
    ],
)
def test_an_invalid_file_is_named(
    tmp_path: Path, generation: dict[str, object] | str, message: str
) -> None:
    folder = folder_with(tmp_path, generation=generation)

    with pytest.raises(InvalidCheckpoint, match=message) as refused:
        read(folder)

    assert "generation_config.json" in str(refused.value)
    assert read(folder, with_file=False).end_ids == (248044,)


def test_the_demo_model_is_greedy_by_default() -> None:
    defaults = GenerationDefaults.from_folder(checkpoint_dir())

    assert defaults.sampling.resolved().is_greedy
    assert defaults.end_ids == (1529, 1527)
