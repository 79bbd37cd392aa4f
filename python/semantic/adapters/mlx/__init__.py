"""MLX: geometry of models, capture of live caches, restore of blocks."""
