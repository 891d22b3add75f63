"""The clients of a cluster under faults, over the SDK and over HTTP."""
