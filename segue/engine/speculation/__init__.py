"""Speculative decoding: drafts, how many, and which are accepted."""
