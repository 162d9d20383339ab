"""Deterministic simulation of a whole Raft cluster: network, disks and clocks in one process, from
one seed, with the core as it is. `python -m tests.sim --seed N` replays one.
"""
