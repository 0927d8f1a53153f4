"""simulate: particles and tilt series with known truth."""
