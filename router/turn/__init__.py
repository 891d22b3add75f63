"""One turn at work: its calls to workers, its states, its measurements."""
