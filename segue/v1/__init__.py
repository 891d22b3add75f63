"""Generated from `proto/segue/v1`: messages between clients and the router."""
