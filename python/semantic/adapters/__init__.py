"""The implementations behind the ports: the only places that know MLX, mlx-lm and files."""
