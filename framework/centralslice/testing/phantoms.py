"""Phantoms with exact maps, projections and transforms, for tests of reconstructors and processors."""

from __future__ import annotations

from centralslice.geometry.gaussians import GaussianPhantom, random_phantom

__all__ = ["GaussianPhantom", "random_phantom"]
