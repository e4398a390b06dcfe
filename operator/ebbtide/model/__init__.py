"""Frozen data that every layer speaks: what is declared, seen, remembered and decided. No behaviour beyond invariants.

All structs are `msgspec.Struct`: immutable, comparable, and encoded to the same bytes for the same value, which is
what makes a recorded decision reproducible.
"""
