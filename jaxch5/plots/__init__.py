"""Draws figures of data, augmentation, training and mistakes."""
