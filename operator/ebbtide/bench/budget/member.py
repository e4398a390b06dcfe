"""The services of the benchmark: what is asked of each, minute by minute, and what one of its replicas carries.

A replica is a fluid: up to `capacity_per_s` requests/s are answered inside the objective, what exceeds it is refused
at the door and counts as missed. Nobody tries again, and no queue is left behind. The capacity is where the line of
continuous batching (see core.priors) reaches the objective: with a = 6 ms, b = 0.135 ms, 256 tokens and 50 ms that is
(50 - 6) / (0.135 x 256 x 0.050) = 25.5 requests/s.
"""

import msgspec

from ebbtide.core.priors import length_shape

_A_S, _B_S = 0.006, 0.000135  # 8B on one H100: gap between tokens = a + b x requests in the batch


class Member(msgspec.Struct, frozen=True):
    """One service. `requests` came in each minute, the lead-in's first; one replica holds one GPU."""

    name: str
    priority: int
    input_tokens: float
    output_tokens: float
    ttft_s: float
    itl_s: float
    requests: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """Namespace and name."""
        return f"bench/{self.name}"

    @property
    def slope_s(self) -> float:
        """By how much one more request in the batch widens the gap between tokens."""
        return _B_S * length_shape(self.input_tokens, self.output_tokens)

    @property
    def capacity_per_s(self) -> float:
        """Requests/s that one replica answers inside the objective."""
        return (self.itl_s - _A_S) / (self.slope_s * self.output_tokens * self.itl_s)

    def gap_s(self, per_s: float) -> float:
        """The gap between tokens at so many requests/s; at what exceeds the capacity it is the objective's."""
        carried = min(per_s, self.capacity_per_s)
        return min(self.itl_s, _A_S / (1.0 - carried * self.output_tokens * self.slope_s))


MEMBERS = (
    Member("chat", 200, 1024.0, 256.0, 1.0, 0.05),
    Member("code", 100, 1500.0, 100.0, 1.0, 0.05),
    Member("summaries", 50, 3000.0, 400.0, 5.0, 0.10),
)
