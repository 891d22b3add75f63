"""Speculative decoding: drafting, draft length and acceptance."""
