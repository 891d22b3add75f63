"""Placement alone: simulated workers in virtual time, driving the router's own `place`."""
