"""The number of workers while the cluster serves: by order, by load, and by the configuration."""
