"""The client library: a cluster's client, sessions, and conversion of chat messages."""
