"""From results to figures, claims and tables."""
