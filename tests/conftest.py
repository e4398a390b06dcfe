"""Settings for all tests."""

from hypothesis import settings

# a slow machine is not a failing test: no property has a deadline
settings.register_profile("ebbtide", deadline=None)
settings.load_profile("ebbtide")
