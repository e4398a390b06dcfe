import pytest

from ebbtide.bench.rivals.parts import Window, ceil_of, floor_of


@pytest.mark.parametrize(
    ("value", "up", "down"), [(3.0, 3, 3), (3.0000000001, 3, 3), (0.7 / 0.1, 7, 7), (3.2, 4, 3), (-2.18, -2, -3)]
)
def test_binary_noise_is_no_replica(value, up, down):
    assert (ceil_of(value), floor_of(value)) == (up, down)


def test_a_window_keeps_what_is_younger_than_its_span():
    window = Window(45.0)
    for at_s, value in ((0.0, 9.0), (15.0, 1.0), (30.0, 2.0), (45.0, 6.0)):
        window.add(at_s, value)
    assert list(window) == [1.0, 2.0, 6.0], "the one of 45 s ago is out"
    assert window.mean() == pytest.approx(3.0)
    assert (min(window), max(window)) == (1.0, 6.0)


def test_a_window_of_no_width_holds_the_newest_alone():
    window = Window(0.0)
    window.add(0.0, 5.0)
    window.add(15.0, 3.0)
    assert list(window) == [3.0]


def test_an_empty_window_has_no_mean():
    assert Window(10.0).mean() == 0.0
