"""Commands that follow a running cluster: `segue scale`, `segue top`."""
