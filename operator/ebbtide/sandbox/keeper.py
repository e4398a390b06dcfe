"""Becomes the program in its arguments, tied to the life of the process that started it.

Run as a script, without the package, so that it starts in a few hundredths of a second:
`python -I -S keeper.py PARENT_PID PROGRAM ARGUMENT...`. The kernel then kills the program the moment its parent is
gone, however the parent ended (Linux: PR_SET_PDEATHSIG survives exec). It must never import the project.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie, check that the parent did not end before the tie, exec."""
    parent, program = int(sys.argv[1]), sys.argv[2]
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"keeper: prctl failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        sys.exit("keeper: the parent is gone already")
    try:
        os.execv(program, sys.argv[2:])
    except OSError as error:
        sys.exit(f"keeper: {program}: {error.strerror}")


if __name__ == "__main__":
    main()
