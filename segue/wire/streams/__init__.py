"""Many calls over one gRPC stream, and membership over another."""
