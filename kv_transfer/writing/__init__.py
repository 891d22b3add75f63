"""The sending side of handoffs: plans and writes."""
