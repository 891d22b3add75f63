"""The cluster's workers: which there are, their health, and what they keep."""
