"""What a KV cache is made of: geometry, bytes, blocks, identity. Standard library only."""
