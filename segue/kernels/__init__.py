"""One folder per operator; its `reference.py` defines correct results."""

NO_SLOT = -1
"""In a tensor of input slots: start from a zero state."""
