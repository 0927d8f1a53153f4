"""centralslice: 3D maps from cryo-EM particles and cryo-ET tilt series by Fourier slice insertion."""

__version__ = "0.1.0"

__all__ = ["__version__"]
