"""Demand when a new replica would be ready, as a distribution: candidates, their record, errors and jumps."""
