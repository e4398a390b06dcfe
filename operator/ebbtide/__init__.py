"""Ebbtide: scales LLM inference across GPU pools to meet latency objectives at the lowest cost."""

__version__ = "0.1.0"
