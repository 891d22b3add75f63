"""Where a turn runs: the load and speed of workers, cost estimates, and the choice."""
