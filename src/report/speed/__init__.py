"""Speed, growth and memory: what benchmark.py measures, how it is kept, and how it is shown."""
