"""The memory of sessions and turns on a decode worker."""
