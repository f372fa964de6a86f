"""Augments pictures by one matrix and one interpolation per picture, and by changes of colour."""
