"""A run: what watches training, writes it down and says it."""
