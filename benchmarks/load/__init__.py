"""Many short turns on a healthy cluster: what fails, what a turn costs the router, what stays."""
