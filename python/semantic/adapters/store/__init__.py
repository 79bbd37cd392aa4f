"""Block stores: what is kept beyond the process."""
