"""tomo: tilt series and particles in them in, maps out."""
