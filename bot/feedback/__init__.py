"""Feedback: the replay store, and the pure rules that turn what people said into rewards."""
