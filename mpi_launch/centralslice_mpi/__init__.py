"""Runs under MPI: recognising the launcher, the MPI communicator, job scripts.

Nothing here imports mpi4py before a world of several ranks was recognised.
"""
