"""The receiving side of handoffs: reservations, commits, fences."""
