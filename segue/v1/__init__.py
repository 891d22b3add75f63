"""Generated from `proto/segue/v1`: what clients and the router say to each other."""
