"""When observing or planning as a whole fails cycle after cycle: from which cycle on that is said, and in which words.

One object's failure never gets here, it is set aside. What does is a fault of Ebbtide's that stops every
decision, so it must not be silent: an Event on Ebbtide's own Deployment, a metric, and `/readyz`.
"""

SAID_AFTER = 3  # cycles in a row: one may be a hiccup of the machine, and the log has that


class Stall:
    """Counts the cycles in a row in which no plan could be made."""

    def __init__(self) -> None:
        self.cycles = 0

    def failed(self, step: str, error: BaseException | None) -> str:
        """Notes one more cycle that ended at this step; returns what is to be said, empty while it is too early."""
        self.cycles += 1
        if self.cycles < SAID_AFTER:
            return ""
        return (
            f"no plan could be made in {self.cycles} cycles in a row, because the step {step} failed, so replicas of "
            f"every service hold: {error!r}; "
            "this is an error of Ebbtide's own: please report it with the log"
        )

    def plan_made(self) -> None:
        """The count begins anew."""
        self.cycles = 0
