"""How many writes a second the record layer may make: a token bucket that several writers can share."""


class TokenBucket:
    """`per_second` tokens a second, at most one second's worth saved. Times are unix seconds, given by the caller.

    Worked example: 20/s, nothing taken for a minute: 20 tokens, not 1200, so no second ever sees more than 40 and a
    steady drain sees 20.
    """

    def __init__(self, per_second: float) -> None:
        if per_second <= 0:
            raise ValueError(f"a write budget of {per_second} per second would never write: give a number above 0")
        self.per_second = per_second
        self._burst = max(1.0, per_second)
        self._tokens = self._burst
        self._at = float("-inf")

    def take(self, wanted: int, now_s: float) -> int:
        """Takes up to `wanted` tokens; returns how many were given (whole ones)."""
        if now_s > self._at:  # a clock that steps back gives nothing, and takes nothing away
            self._tokens = min(self._burst, self._tokens + (now_s - self._at) * self.per_second)
        self._at = now_s
        given = min(wanted, int(self._tokens))
        self._tokens -= given
        return given
