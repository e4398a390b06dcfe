"""Engines, load and whole fleets in virtual time: the same plan as in a cluster, a day in seconds."""
