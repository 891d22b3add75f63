"""The cost of a prompt to the router: `python -m benchmarks.router_cost --help`."""
