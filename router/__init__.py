"""The front door: accepts turns, places each on a prefill and a decode worker, streams tokens."""
