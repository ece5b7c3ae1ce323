"""Activations that are computed once: keys, and the stores behind them."""
