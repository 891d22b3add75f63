"""Which turns run now, which wait and which are refused."""
