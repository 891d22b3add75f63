"""What every process has: logs, metrics and their endpoint, cancellation."""
