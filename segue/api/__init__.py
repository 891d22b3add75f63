"""The vocabulary that all parts share: requests, turns, sessions, cluster status, errors."""
