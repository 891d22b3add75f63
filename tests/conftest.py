"""Fixtures for several folders (tiny checkpoints, made once per session), and the order of
tests.
"""

from __future__ import annotations

import functools
import gc
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# The process that hands out the tests also reads this file: imports that take seconds are in the
# functions that need them.
if TYPE_CHECKING:
    from segue.text.tokens.tokenizer import Tokenizer
    from tests.checkpoints import Variant
    from tests.real_vocabulary import MakeReal

# Modules and collected tests are a million objects that stay: garbage collections that scan them
# took each process eight seconds.
gc.disable()


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """Prepares libraries. This is the first hook: other conftest.py may import Triton."""
    options = pluginmanager.get_plugin("pytestconfig").known_args_namespace
    hands_out_tests = (
        getattr(options, "numprocesses", None) and "PYTEST_XDIST_WORKER" not in os.environ
    )
    if not hands_out_tests:
        _prepare_torch()
        _prepare_hypothesis()


def _prepare_torch() -> None:
    import torch

    # Without a GPU, kernels run on this process' CPU, line by line. Triton reads this when it is
    # first imported.
    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"
    # Tiny products gain nothing from a second thread, and wait for it if cores are shared.
    torch.set_num_threads(1)


def _prepare_hypothesis() -> None:
    from hypothesis import settings

    # How long an example takes says nothing where processes share cores.
    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")


def pytest_collection_finish() -> None:
    # Before `enable`, which would start a full collection, of things that mostly stay.
    gc.freeze()
    gc.enable()
    _let_loggers_propagate()


def _let_loggers_propagate() -> None:
    """Sends the records of libraries to the root logger. pytest attaches its handlers to every
    logger that does not propagate, six times a test: torch has 50 of them.
    """
    for logger in logging.getLogger().manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.propagate = True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs whole clusters first, since they take longest: a process that gets one last would delay
    the end.
    """
    items.sort(key=lambda item: "cluster" not in item.path.parts)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """A file's tests stay together, and so do all tests of the session's Ray cluster, of which each
    process would start one. Files are assigned in our order: xdist would start with those of most
    tests, and end with whole clusters.
    """
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):  # type: ignore[misc]  # no types upstream
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "the Ray cluster" if _uses_ray_cluster(config.rootpath / file) else file

    if config.option.dist != "loadfile":
        return None
    config.option.loadscopereorder = False
    return ByFile(config, log)


@functools.cache
def _uses_ray_cluster(file: Path) -> bool:
    return "ray_cluster: Cluster" in file.read_text("utf-8")


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if config.option.markexpr == "not slow and not gpu and not clients":
        terminalreporter.write_line(
            "not run: tests marked slow (-m slow), gpu (-m gpu), and clients (-m clients)"
        )


MakeCheckpoint = Callable[["Variant"], Path]


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> MakeCheckpoint:
    """A folder for a variant, made once."""
    from tests.checkpoints import save_checkpoint

    folders: dict[str, Path] = {}

    def make(variant: Variant) -> Path:
        key = repr(variant)
        if key not in folders:
            folders[key] = save_checkpoint(tmp_path_factory.mktemp("checkpoint"), variant)
        return folders[key]

    return make


@pytest.fixture(scope="session")
def tiny_dense(make_checkpoint: MakeCheckpoint) -> Path:
    """A dense float32 checkpoint, 4 layers, vocabulary of 300; no tokenizer."""
    from tests.checkpoints import Variant

    return make_checkpoint(Variant())


@pytest.fixture(scope="session")
def tiny_moe(make_checkpoint: MakeCheckpoint) -> Path:
    """The same shape with 8 experts, 2 a token."""
    from tests.checkpoints import Variant

    return make_checkpoint(Variant(is_moe=True))


@pytest.fixture(scope="session")
def published_dense(tiny_dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_dense` as published on the hub: multimodal names, shards, vision tower, MTP."""
    from tests.checkpoints import publish

    return publish(tiny_dense, tmp_path_factory.mktemp("published") / "dense")


@pytest.fixture(scope="session")
def published_moe(tiny_moe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_moe` as published on the hub."""
    from tests.checkpoints import publish

    return publish(tiny_moe, tmp_path_factory.mktemp("published") / "moe")


@pytest.fixture(scope="session")
def mtp_dense(tiny_dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_dense` with a random MTP layer."""
    from tests.checkpoints import add_mtp_layer

    return add_mtp_layer(tiny_dense, tmp_path_factory.mktemp("mtp") / "dense")


@pytest.fixture(scope="session")
def mtp_moe(tiny_moe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_moe` with a random MTP layer."""
    from tests.checkpoints import add_mtp_layer

    return add_mtp_layer(tiny_moe, tmp_path_factory.mktemp("mtp") / "moe")


@pytest.fixture(scope="session")
def real_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files shared by checkpoints with the real vocabulary: one folder for all test processes."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "real-vocabulary"


@pytest.fixture(scope="session")
def make_real_text(real_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeReal:
    """A folder with the real tokenizer and the given chat template, without a model."""
    from tests.real_vocabulary import save_text_side

    return _remember(
        lambda chat_template: save_text_side(
            tmp_path_factory.mktemp("real-text"), chat_template, cache=real_cache
        )
    )


@pytest.fixture(scope="session")
def real_tokenizer(make_real_text: MakeReal) -> Tokenizer:
    """The real vocabulary's; reading it takes a second."""
    from segue.text.tokens.tokenizer import Tokenizer
    from tests.real_vocabulary import template

    return Tokenizer.from_folder(make_real_text(template("3.5")))


@pytest.fixture(scope="session")
def make_real_checkpoint(real_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeReal:
    """A tiny checkpoint with the real vocabulary and the given chat template."""
    from tests.real_vocabulary import save_real_checkpoint

    return _remember(
        lambda chat_template: save_real_checkpoint(
            tmp_path_factory.mktemp("real"), chat_template, cache=real_cache
        )
    )


@pytest.fixture(scope="session")
def real_checkpoint(make_real_checkpoint: MakeReal) -> Path:
    """A tiny checkpoint with the real vocabulary and a template like Qwen3.5's."""
    from tests.real_vocabulary import template

    return make_real_checkpoint(template("3.5"))


def _remember(make: MakeReal) -> MakeReal:
    folders: dict[str, Path] = {}

    def made(chat_template: str) -> Path:
        if chat_template not in folders:
            folders[chat_template] = make(chat_template)
        return folders[chat_template]

    return made
