"""Who may talk to whom: certificate files, the cluster's secret, and the settings for both."""
