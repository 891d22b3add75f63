"""The demo model's training text, a pure function of its seed."""
