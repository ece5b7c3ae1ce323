"""Pixels: what X may be, and how an image becomes numbers."""
