"""A fault in each process, at each moment of a turn, and its effect on the clients.

`python -m tests.faults` runs the matrix against a cluster of real processes, with real gRPC and
Mooncake. docs/faults.md has its results and explains the columns.
"""
