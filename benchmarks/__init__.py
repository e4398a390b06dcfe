"""Measurements of the whole, run by hand with `make bench`. Nothing here is imported by the product."""
