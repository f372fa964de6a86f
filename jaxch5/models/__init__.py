"""Networks in Flax, their heads, and weights from and to torchvision and timm."""
