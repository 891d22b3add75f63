"""What it costs, beside what it must cost. Each benchmark is `python -m benchmarks.NAME`."""
