"""The decision benchmark: Ebbtide's own plan and its rivals on the same traffic, in simulators, scored alike."""
