"""Runs under MPI: empty so far, for this version runs on the threads of one machine only."""
