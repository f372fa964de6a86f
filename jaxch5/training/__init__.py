"""Training: the compiled steps, the loop around them, and the devices that they run on."""
