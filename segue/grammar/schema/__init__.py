"""Reads a client's JSON schema, and rewrites it so that xgrammar enforces all of it.

xgrammar ignores keywords that it does not support. So only keywords that are known to be enforced
are passed on, some are rewritten, and the rest is refused. The result may allow less than the
schema (no further properties, for example), never more.

read.py      the walk: references, combinations, limits
kinds.py     the keywords of each type, and regular expressions
objects.py   the keywords of objects
values.py    whether a schema has values, and whether at most one branch of oneOf can hold
"""

from __future__ import annotations

from segue.grammar.schema.kinds import check_pattern
from segue.grammar.schema.read import MAX_DEPTH, PreparedSchema, parse_schema, read_schema

__all__ = ["MAX_DEPTH", "PreparedSchema", "check_pattern", "parse_schema", "read_schema"]
