"""Who may use the router: API keys, the tenants that they belong to, and the tenants' limits."""
