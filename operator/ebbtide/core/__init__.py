"""The decision core: `plan(snapshot, memory, now_s) -> (plan, memory)` and nothing else.

Pure by contract: no clock, I/O, randomness, logging or environment. Files follow the data:
demand -> forecast -> capacity -> sizing -> placement -> guardrails -> conditions, tied together in `plan`.
"""
