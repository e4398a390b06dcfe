"""JSON that is nested deeper than the decoder goes: the deepest parts are replaced by a mark, so the rest can be read.

The API server takes 10,000 levels, the decoder about 900. One such object stands in the same answer as 500 others, so
the answer must not be lost for it. Who decides from a part that may be cut must look for the mark.
"""

import re

MOST_LEVELS = 800  # what the decoder takes with room for the stack below it
TOO_DEEP = b'"ebbtide.dev/nested-too-deeply"'

_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)


def shallow(body: bytes, most: int = MOST_LEVELS) -> bytes:
    """The same JSON with each value below `most` levels replaced by the mark; most=1: `{"a":{"b":1}}` -> `{"a":…}`."""
    parts: list[bytes] = []
    depth, done = 0, 0
    for token in _TOKEN.finditer(body):
        sign = token[0]
        if sign in (b"{", b"["):
            depth += 1
            if depth == most + 1:
                parts += (body[done : token.start()], TOO_DEEP)
        elif sign in (b"}", b"]"):
            if depth == most + 1:
                done = token.end()
            depth -= 1
    return b"".join((*parts, body[done:]))
