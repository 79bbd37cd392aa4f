"""Which model files those are: by all of their bytes, which are read once (ADR-005)."""
