"""Faults that a store is put through, and the oracle that its contents are compared with."""
