"""Presents what a trained classifier knows, as numbers, pages and files."""
