"""subparticles: every symmetry copy of a part of a particle becomes a particle of its own."""
