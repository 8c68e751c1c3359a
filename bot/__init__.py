"""Rejoinder's serving product: one user message in, one reply out, everything learnable written down."""

__version__ = "0.1.0"
