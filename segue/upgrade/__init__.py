"""A rolling restart: one process after another is drained, and its successor awaited."""
