"""One folder per operator; its `reference.py` defines correct, and is what a CPU runs."""
