"""One folder per operator; its `reference.py` defines correct, and is what a CPU runs."""

NO_SLOT = -1
"""In a tensor of input slots: begin from a zero state."""
