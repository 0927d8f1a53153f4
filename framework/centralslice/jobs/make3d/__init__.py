"""make3d: oriented images in, map out."""
