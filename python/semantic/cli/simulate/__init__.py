"""`semantic simulate`: recorded requests replayed through the real index and pool, no tensors."""
