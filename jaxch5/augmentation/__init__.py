"""Augmentation: one matrix and one interpolation a picture, and changes of colour."""
