"""Structured output: from the form that a client wants to the tokens that its answer may have.

schema/        JSON schemas: what can be enforced, in the form that xgrammar enforces
calls.py       calls of tools, in the format of the checkpoint's template
build.py       the grammar of a turn                                          } router
checking.py    the process that compiles a grammar before its turn is placed  }
library.py     imports xgrammar
compiler.py    grammars for the tokens of a vocabulary                        } workers
constraint.py  which token may come next in one answer                        }
"""
