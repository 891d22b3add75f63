"""What the processes of a cluster say about themselves: status, drains, and what they keep."""
