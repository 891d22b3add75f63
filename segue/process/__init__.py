"""Parts of every process: logs, metrics and their endpoint, traces, cancellation."""
