"""The cluster's workers: which are there, how they are, and what they keep."""
