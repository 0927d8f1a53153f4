"""Plugins: the hooks they implement, the catalogue that names them, the registry that finds them."""
