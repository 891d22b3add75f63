"""A worker whose model several processes compute: its leader's runner, and how they are started."""
