"""Shop domain."""
