"""Requests in the trace format of Dynamo's replay."""

from collections.abc import Iterable, Iterator

import msgspec

from ebbtide.sim.requests import Request

BLOCK_TOKENS = 512  # ids of blocks are never repeated, so no prefix is shared


def trace_lines(requests: Iterable[Request]) -> Iterator[bytes]:
    """Mooncake's JSON lines: milliseconds, lengths, and an id of its own for each block of the prompt."""
    block = 0
    for request in requests:
        blocks = -(-request.prompt_tokens // BLOCK_TOKENS)
        yield msgspec.json.encode(
            {
                "timestamp": 1000 * request.arrival_s,
                "input_length": request.prompt_tokens,
                "output_length": request.output_tokens,
                "hash_ids": list(range(block, block + blocks)),
            }
        )
        block += blocks
