"""The engine: batches of running sequences, one step after another."""
