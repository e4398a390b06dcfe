"""`ebbtide bench batch`: chat with Jobs beside it on two pools, under Ebbtide and under rivals, in virtual time."""
