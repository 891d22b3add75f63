"""A process that builds grammars and compiles them: `python -m segue.grammar.checking FOLDER
VOCAB_SIZE`.

Compiling a schema may take minutes and gigabytes, and only killing the process stops it. The router
asks this process before it places a turn, with a time limit; workers compile only grammars that
were compiled here.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from pathlib import Path

from segue.api.errors import InvalidRequest
from segue.api.types import Grammar
from segue.grammar.build import BuiltGrammar, GrammarSpec, build
from segue.grammar.compiler import GrammarCompiler, plain_message
from segue.grammar.library import xgrammar
from segue.text.helper_process import serve_jobs
from segue.text.tokens.tokenizer import Tokenizer

_MAX_BYTES = 4 << 30
_CACHE_BYTES = 32 << 20


def checker(folder: Path, vocab_size: int) -> Callable[[GrammarSpec], Grammar]:
    """Returns the function that checks a form. Raises InvalidCheckpoint."""
    compiler = GrammarCompiler(Tokenizer.from_folder(folder), vocab_size, cache_bytes=_CACHE_BYTES)

    def check(spec: GrammarSpec) -> Grammar:
        """Raises InvalidRequest with the path of the mistake."""
        built = build(spec)
        _check_patterns(built)
        try:
            compiled = compiler.compile(built.grammar)
        except InvalidRequest as error:
            raise InvalidRequest.at(built.field, f"cannot be enforced: {error}") from None
        if not compiled.allows_a_token(vocab_size):
            raise InvalidRequest.at(built.field, "expected a grammar that matches some text")
        return built.grammar

    return check


def _check_patterns(built: BuiltGrammar) -> None:
    """Checks them separately: an error in a whole grammar does not name the pattern."""
    for field, pattern in built.patterns.items():
        try:
            xgrammar().Grammar.from_regex(pattern)
        except (RuntimeError, ValueError) as error:
            raise InvalidRequest.at(field, plain_message(error)) from None


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_BYTES, _MAX_BYTES))
    folder, vocab_size = Path(sys.argv[1]), int(sys.argv[2])
    serve_jobs(lambda: checker(folder, vocab_size))


if __name__ == "__main__":
    main()
