"""What goes into an engine and what comes out of it."""

import msgspec

FINISHED_REASONS = ("stop", "length", "abort", "error", "repetition")
SERVED_REASONS = ("stop", "length")
REJECTED = "rejected"


class Request(msgspec.Struct, frozen=True):
    """One request: when its user sent it (seconds on the caller's clock) and how long it is."""

    id: int
    arrival_s: float
    prompt_tokens: int
    output_tokens: int


class Outcome(msgspec.Struct, frozen=True):
    """How a request ended. `finish_reason` is one of FINISHED_REASONS, or `rejected` where the queue was full.

    `first_token_s` is None where no token ever came. Times are on the clock of the engine's caller.
    """

    request: Request
    first_token_s: float | None
    finish_s: float
    finish_reason: str
    generated_tokens: int = 0

    @property
    def served(self) -> bool:
        """Whether the whole answer was delivered."""
        return self.finish_reason in SERVED_REASONS

    @property
    def time_to_first_token_s(self) -> float | None:
        """Seconds from the user's sending to the first token, waiting at a gateway included."""
        return None if self.first_token_s is None else self.first_token_s - self.request.arrival_s

    @property
    def inter_token_latency_s(self) -> float | None:
        """Mean gap between tokens, (finish - first) / (tokens - 1); None for one token or none, or a broken answer."""
        if self.first_token_s is None or self.generated_tokens <= 1 or not self.served:
            return None
        return (self.finish_s - self.first_token_s) / (self.generated_tokens - 1)

    def meets(self, time_to_first_token_s: float, inter_token_latency_s: float) -> bool:
        """Whether the answer was delivered within both objectives; one-token answers are judged by the first alone."""
        first_s, gap_s = self.time_to_first_token_s, self.inter_token_latency_s
        if not self.served or first_s is None or first_s > time_to_first_token_s:
            return False
        return gap_s is None or gap_s <= inter_token_latency_s
