"""The process that measures, its supervisor, and the report that they write."""
