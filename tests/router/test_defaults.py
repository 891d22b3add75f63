"""How the router completes a turn: token ids, and a value for every field that the client left
open.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from router.placement.pools import Pools
from router.sessions.history import Completed
from router.sessions.prompt import PromptBuilder
from segue.api.errors import ContextOverflow, InvalidCheckpoint, InvalidRequest
from segue.api.types import (
    ChatInput,
    Message,
    Sampling,
    SamplingParams,
    SessionId,
    StopConditions,
    TextInput,
    TokenInput,
    TurnId,
    TurnInput,
    TurnRequest,
)
from segue.demo import checkpoint_dir
from segue.model.checkpoint.source import CheckpointConfig

END, END_OF_TEXT = 1529, 1527
ASKED = TurnRequest(
    session_id=SessionId("s"),
    turn_id=TurnId("t"),
    input=TokenInput((5, 6, 7)),
    sampling=SamplingParams(seed=3),
)
CHAT = ChatInput(messages=(Message(role="user", content="Hello"),))


def published(folder: Path, **generation: object) -> Path:
    """The demo like Qwen's published checkpoints: config.json and tokenizer name different end
    tokens.
    """
    shutil.copytree(checkpoint_dir(), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": END_OF_TEXT}))
    if generation:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def test_without_generation_config_a_chat_ends_at_the_tokenizers_end_token(tmp_path: Path) -> None:
    spec = (
        PromptBuilder.from_folder(published(tmp_path / "model"))
        .build(Completed(ASKED), Pools())
        .spec
    )

    assert spec.stop.stop_token_ids == (END_OF_TEXT, END)


def test_with_the_real_vocabulary_a_chat_ends_at_im_end(
    real_checkpoint: Path, tmp_path: Path
) -> None:
    """config.json names only <|endoftext|>; nothing else names an end token."""
    folder = tmp_path / "model"
    shutil.copytree(
        real_checkpoint,
        folder,
        symlinks=True,
        ignore=shutil.ignore_patterns("generation_config.json"),
    )
    chat = replace(ASKED, input=CHAT)

    bare = PromptBuilder.from_folder(folder).build(Completed(chat), Pools()).spec
    published = PromptBuilder.from_folder(real_checkpoint).build(Completed(chat), Pools()).spec

    assert bare.stop.stop_token_ids == (248044, 248046)
    assert bare.sampling == Sampling(seed=3)
    assert published.stop.stop_token_ids == (248046, 248044)
    assert published.sampling == Sampling(temperature=1.0, top_k=20, top_p=0.95, seed=3)


def test_a_clients_stop_ids_add_to_the_end_tokens_unless_those_are_ignored(
    tmp_path: Path,
) -> None:
    builder = PromptBuilder.from_folder(published(tmp_path / "model", eos_token_id=END))
    stop = StopConditions(stop_token_ids=(9, END))

    assert builder.build(
        Completed(replace(ASKED, stop=stop)), Pools()
    ).spec.stop.stop_token_ids == (9, END)
    ignoring = replace(ASKED, stop=replace(stop, stop_token_ids=(9,), ignore_eos=True))
    assert builder.build(Completed(ignoring), Pools()).spec.stop.stop_token_ids == (9,)


def test_open_sampling_fields_take_the_checkpoints_values(tmp_path: Path) -> None:
    folder = published(tmp_path / "model", do_sample=True, temperature=0.6, top_k=20)
    asked = replace(ASKED, sampling=SamplingParams(seed=3, top_k=0))

    taken = PromptBuilder.from_folder(folder).build(Completed(asked), Pools()).spec
    ignored = (
        PromptBuilder.from_folder(folder, CheckpointConfig(generation_config="none"))
        .build(Completed(asked), Pools())
        .spec
    )

    assert taken.sampling == Sampling(temperature=0.6, top_k=0, seed=3)
    assert ignored.sampling == Sampling(seed=3)


def test_the_longest_answer_depends_on_context_and_memory() -> None:
    builder = PromptBuilder.from_folder(checkpoint_dir())
    long = replace(ASKED, stop=StopConditions(max_tokens=8000))

    assert builder.build(Completed(long), Pools(decode=4912)).spec.stop.max_tokens == 4912 - 3
    assert builder.build(Completed(ASKED), Pools()).spec.stop.max_tokens == 8192 - 3
    assert builder.build(Completed(ASKED), Pools(decode=4912)).spec.stop.max_tokens == 1024
    with pytest.raises(
        ContextOverflow, match="too long: 3 tokens > 2 maximum, since the largest decode worker"
    ):
        builder.build(Completed(ASKED), Pools(decode=3))


@pytest.fixture(scope="module")
def ids_only(tmp_path_factory: pytest.TempPathFactory) -> PromptBuilder:
    folder = published(tmp_path_factory.mktemp("ids") / "model")
    (folder / "tokenizer.json").unlink()
    return PromptBuilder.from_folder(folder, CheckpointConfig(skip_tokenizer=True))


def test_without_a_tokenizer_token_ids_are_served(ids_only: PromptBuilder) -> None:
    spec = ids_only.build(Completed(ASKED), Pools()).spec

    assert tuple(spec.context) == (5, 6, 7)
    # The end token's name alone has no id without a vocabulary.
    assert spec.stop.stop_token_ids == (END_OF_TEXT,)


@pytest.mark.parametrize(
    ("turn_input", "got"), [(TextInput("Hello"), "text"), (CHAT, "chat messages")]
)
def test_without_a_tokenizer_requests_that_need_one_are_refused(
    ids_only: PromptBuilder, turn_input: TurnInput, got: str
) -> None:
    with pytest.raises(InvalidRequest, match=f"expected token ids, got {got}.*skip_tokenizer"):
        ids_only.build(Completed(replace(ASKED, input=turn_input)), Pools())


def test_without_a_tokenizer_stop_strings_are_refused(ids_only: PromptBuilder) -> None:
    stop = StopConditions(stop_strings=("END",))

    with pytest.raises(InvalidRequest, match="stop strings need text"):
        ids_only.build(Completed(replace(ASKED, stop=stop)), Pools())


def test_a_tokenizer_is_not_used_if_it_is_to_be_skipped() -> None:
    builder = PromptBuilder.from_folder(checkpoint_dir(), CheckpointConfig(skip_tokenizer=True))

    with pytest.raises(InvalidRequest, match="without a tokenizer"):
        builder.build(Completed(replace(ASKED, input=TextInput("Hello"))), Pools())


def test_the_error_for_a_folder_without_a_tokenizer_names_the_option_for_token_ids(
    tmp_path: Path,
) -> None:
    folder = published(tmp_path / "model")
    (folder / "tokenizer.json").unlink()

    with pytest.raises(InvalidCheckpoint, match="--skip-tokenizer"):
        PromptBuilder.from_folder(folder)
