"""The measured implementations, each in a process of its own with its own Python environment.

A peer's module imports the standard library and that peer only.
"""
