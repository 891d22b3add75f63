"""The common parts of both kinds of workers: process, memory, engine thread."""
