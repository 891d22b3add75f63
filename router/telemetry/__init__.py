"""What the router shows to monitoring beside its own metrics."""
