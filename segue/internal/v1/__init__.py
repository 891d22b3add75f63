"""Generated from `proto/segue/internal/v1`: messages between router and workers."""
