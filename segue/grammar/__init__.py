"""Structured output: from a client's format to the tokens that its answer may have.

schema/        reads JSON schemas, and rewrites them so that xgrammar enforces them
calls.py       grammars of tool calls, in the format of the checkpoint's template
build.py       the grammar of a turn                                          } router
checking.py    the process that compiles a grammar before its turn is placed  }
library.py     imports xgrammar
compiler.py    grammars for the tokens of a vocabulary                        } workers
constraint.py  the tokens that may come next in one answer                    }
"""
