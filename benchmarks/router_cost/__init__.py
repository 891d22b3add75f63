"""What a prompt costs the router: `python -m benchmarks.router_cost --help`."""
