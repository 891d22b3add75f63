from __future__ import annotations

from pathlib import Path

import pytest

from segue.demo import checkpoint_dir
from segue.grammar.compiler import GrammarCompiler
from segue.text.tokens.tokenizer import Tokenizer

VOCAB_SIZE = 1536


@pytest.fixture(scope="package")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(Path(checkpoint_dir()))


@pytest.fixture(scope="package")
def compiler(tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer, VOCAB_SIZE)
