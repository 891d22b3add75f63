"""The client library: a cluster's client, sessions, and what reads and writes chat messages."""
