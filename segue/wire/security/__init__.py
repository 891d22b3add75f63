"""Credentials, the cluster's secret and channels that carry it."""
