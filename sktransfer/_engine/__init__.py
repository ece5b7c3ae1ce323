"""How it is computed and learned: torch, and the exact solver."""
