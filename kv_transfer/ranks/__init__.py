"""Handoffs of a worker with several ranks: each sends its part, and verifies what arrives in it."""
