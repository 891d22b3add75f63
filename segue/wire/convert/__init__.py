"""Values to protobuf messages and back."""
