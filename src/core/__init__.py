"""The mathematics of the paper, on torch alone; it imports nothing else of the project."""
