"""Augmentation: one matrix and one interpolation per picture, and changes of colour."""
