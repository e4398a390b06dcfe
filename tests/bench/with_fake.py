"""`ebbtide` with one simulator more: what the tests run as a process of its own."""

from ebbtide.bench.simulators import SIMULATORS
from ebbtide.cli.main import main
from tests.bench.fake_simulator import PLACE

if __name__ == "__main__":
    SIMULATORS["fake"] = PLACE
    main()
