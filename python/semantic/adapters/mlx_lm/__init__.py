"""mlx-lm: the drop-in prompt cache and the server with it inside."""
