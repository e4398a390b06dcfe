"""The API's kinds: what people may write, how it is checked, and how it becomes `ebbtide.model.spec`."""

from ebbtide.api.parse import parse_batch_policy, parse_policy, parse_pool, parse_service

__all__ = ["parse_batch_policy", "parse_policy", "parse_pool", "parse_service"]
