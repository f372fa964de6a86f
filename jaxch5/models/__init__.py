"""Builds networks in Flax, and exchanges their weights with torchvision, timm and fastai."""
