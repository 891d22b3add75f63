"""A worker of several ranks on Ray: one actor a rank, all in a placement group."""
