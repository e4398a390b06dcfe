"""Claims a slice of loopback for one sandbox: a /16 for pod IPs and twenty ports for the control plane.

A claim is a name in the kernel's abstract socket space: it has exactly the scope of the loopback addresses (the
network namespace) and vanishes with its holder, also after SIGKILL. Ports lie below Linux's ephemeral range (from
32768): a client that retries a dead port inside that range can connect to itself and then keeps the port for ever.
"""

import socket
from dataclasses import dataclass

from ebbtide.errors import SandboxError

# 127.0 to 127.63 stay free: resolvers (127.0.0.53) and other programs live there
_FIRST, _LAST = 64, 254
_PORTS_EACH = 40
_FIRST_PORT = 20_000 - _FIRST * _PORTS_EACH


@dataclass(frozen=True)
class Claim:
    """`second` is the X of 127.X.0.0/16. Keep the object: closing its socket gives the slice back."""

    second: int
    holder: socket.socket

    @property
    def prefix(self) -> str:
        """`127.X`."""
        return f"127.{self.second}"

    @property
    def cidr(self) -> str:
        """`127.X.0.0/16`, the pod IPs."""
        return f"{self.prefix}.0.0/16"

    def ports(self, count: int) -> list[int]:
        """Free ports on 127.0.0.1 that no other sandbox looks at; SandboxError when foreign programs hold most."""
        first = _FIRST_PORT + self.second * _PORTS_EACH
        free = [port for port in range(first, first + _PORTS_EACH) if _bindable(port)]
        if len(free) < count:
            raise SandboxError(
                f"only {len(free)} of the ports {first}-{first + _PORTS_EACH - 1} are free, need {count}"
            )
        return free[:count]

    def close(self) -> None:
        """Give the slice back."""
        self.holder.close()


def claim() -> Claim:
    """The first free slice; SandboxError when all 191 are in use."""
    for second in range(_FIRST, _LAST + 1):
        holder = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            holder.bind(f"\0ebbtide-sandbox-127.{second}")
        except OSError:
            holder.close()
        else:
            return Claim(second, holder)
    raise SandboxError(f"all loopback slices 127.{_FIRST} to 127.{_LAST} are in use: end a sandbox first")


def _bindable(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
