"""Where replicas may be put in a pool whose nodes a policy pays for: what that brings, at the most.

Nobody here knows where the scheduler puts a pod. So the dearest comes first: nodes of which the policy does not pay
for all yet, then empty ones that would be gone soon, then free GPUs that are paid for anyway, then new nodes. How many
pods fit on what is paid for is told for pods of one size alone: of these as many fit in whatever order they come. Pods
of another size bring nodes, until in the next cycle it is seen where all are.

Worked example: two nodes of 8 GPUs with 3 free on each. Two pods of 3 fit, and two of 2, for 1 and 1 make no third.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class Room:
    """Of one pool, for one policy."""

    free: tuple[int, ...] = ()  # GPUs by node that are paid for anyway and that nobody holds
    going: int = 0  # GPUs of nodes that it pays for, that nobody uses and that are to go
    opens: int = 0  # nodes with free GPUs of which it does not pay for all
    size: int = 0  # GPUs of the pods that were put here so far; 0: none were
    left: int = 0  # so many more of them fit on what is paid for

    def fits(self, size: int) -> int:
        """Pods of `size` GPUs that are on GPUs that are paid for, wherever they are put."""
        if self.size:
            return self.left if size == self.size else 0
        return sum(gpus // size for gpus in self.free)

    def has_paid(self, size: int, pods: int) -> bool:
        """Whether these pods surely bring nothing."""
        return not self.opens and not self.going and self.fits(size) >= pods

    def put(self, size: int, pods: int, brought: int, carries: int) -> None:
        """These pods are put, on `brought` GPUs that `carries` of their size are on; 0: on what is paid for."""
        if not brought and not self.size and len(self.free) == 1:  # of one node it is known what is left
            self.free = (self.free[0] - size * pods,)
            return
        if not self.size:
            self.left, self.size = self.fits(size), size
        self.going -= self.retaken(brought)
        if brought:
            self.opens = max(0, self.opens - pods)
        if size == self.size:
            self.left += carries - pods

    def retaken(self, brought: int) -> int:
        """Of so many GPUs that come, those that are there and would go: what is bound for them is the raise's."""
        return 0 if self.opens else min(brought, self.going)
