"""The front door: turns come in, are placed on a prefill and a decode worker, tokens go out."""
