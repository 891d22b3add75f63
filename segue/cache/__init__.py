"""A sequence's memory: pages and slots, their owners, their layout in bytes, the prefix cache."""
