"""Authentication between processes: certificate files, the cluster's secret, and their settings."""
