"""Bank domain."""
