"""How a gateway listens: in one process, or in several on one port."""
