"""Many short turns on a healthy cluster: failures, the router's cost per turn, and leaks."""
