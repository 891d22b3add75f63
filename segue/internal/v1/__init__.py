"""Generated from `proto/segue/internal/v1`: what router and workers say to each other."""
