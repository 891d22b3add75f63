"""Changes of the number of workers in a running cluster: by order, load and configuration."""
