"""Real processes that a test can break: their supervisor, their network, their hooks."""
