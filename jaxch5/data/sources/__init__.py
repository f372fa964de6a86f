"""Reads labelled pictures from folders, tables, archives, packed sets and tensorflow-datasets."""
