"""Figures of data, augmentation, training and mistakes."""
