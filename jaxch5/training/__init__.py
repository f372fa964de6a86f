"""Trains networks with compiled steps, a loop around them, and any number of devices."""
