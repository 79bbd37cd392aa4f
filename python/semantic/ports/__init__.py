"""What the domain and the application ask of the world."""
