"""The prefix cache: a tree of pages and states, what holds them, and what is evicted."""
