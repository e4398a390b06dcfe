"""Who else could run the Jobs, one file each."""
