"""Turns labelled pictures into batches."""
