"""`make bench-emulator`: the emulator against a real vLLM, as docs/benchmarks/emulator.md.

python -m benchmarks.emulator [--recorded DIR] [--out DIR] [--markdown FILE]
"""

import argparse
import asyncio
import sys
from pathlib import Path

from benchmarks.emulator import compare, document, recording, server
from ebbtide.errors import EbbtideError


def main(arguments: list[str] | None = None) -> int:
    """Returns 1 when the wanted replicas agree in fewer cycles than claimed, 2 when there is nothing to compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.emulator", description=__doc__.partition("\n")[0])
    parser.add_argument("--recorded", type=Path, help="compare this recorded run; starts no server")
    parser.add_argument("--out", type=Path, default=Path("out/emulator"), help="where the run is recorded")
    parser.add_argument("--markdown", type=Path, default=Path("docs/benchmarks/emulator.md"), help="what is written")
    options = parser.parse_args(arguments)
    try:
        if options.recorded is None:
            recording.write(options.out, server.record(lambda text: print(text, flush=True)))
        found = compare.compare(recording.read(options.recorded or options.out))
    except EbbtideError as error:
        print(f"{error}", file=sys.stderr)
        return 2
    except asyncio.CancelledError:
        print("ended before it was done; the server is ended too", file=sys.stderr)
        return 2
    options.markdown.write_text(document.markdown(found))
    print(f"{options.markdown}: {document.verdict(found)}")
    return 0 if found.agreement >= compare.WANTED_AGREEMENT else 1


if __name__ == "__main__":
    sys.exit(main())
