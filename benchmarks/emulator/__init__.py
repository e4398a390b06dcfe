"""The emulator against a real vLLM: fitted on one load, compared on another. `make bench-emulator` runs it."""
