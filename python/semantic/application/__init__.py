"""The story of one turn, over sealed blocks and a pool. Knows the domain and the ports only."""
