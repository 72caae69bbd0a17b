"""The experiments: one script each, read from top to bottom."""
