"""Traces: every known form is read, a broken line is named, and the real files are read where they are at hand."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ebbtide.errors import ConfigurationError
from ebbtide.sim.requests import Request
from ebbtide.sim.traces import RateTrace, RequestTrace, read_trace, scaled, window

# a folder with public traces; they are not part of the project
TRACES = Path(os.environ.get("EBBTIDE_TRACES", Path(__file__).parents[3] / "shared" / "traces"))


def write(folder: Path, name: str, *lines: str) -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def test_requests_from_csv_start_at_zero_in_the_order_of_arrival(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "requests.csv",
        "TIMESTAMP,ContextTokens,GeneratedTokens",
        "2023-11-16 18:15:50.9951690,396,109",
        "2023-11-16 18:15:46.9951690,374,44",
        "2023-11-16 18:16:46.9951690,10,0",
    )

    trace = read_trace(path)

    assert isinstance(trace, RequestTrace)
    assert [(round(r.arrival_s, 6), r.prompt_tokens, r.output_tokens) for r in trace.requests] == [
        (0.0, 374, 44),
        (4.0, 396, 109),
        (60.0, 10, 1),  # no engine answers with nothing
    ]
    assert trace.duration_s == pytest.approx(60.0)


@pytest.mark.parametrize(
    ("first", "second", "apart_s"),
    [
        ("2023-11-16T18:16:03Z", "2023-11-16T18:16:04Z", 1.0),
        ("2023-11-16T18:16:03.97Z", "2023-11-16T18:16:04.2200000Z", 0.25),
        ("2023-11-16 18:16:03", "2023-11-16T18:16:03.5Z", 0.5),  # without an offset it is UTC
        ("2023-11-16T18:16:03+01:00", "2023-11-16T18:16:03Z", 3600.0),
        ("2023-11-16T18:16:03.25-08:00", "2023-11-17T02:16:04.25", 1.0),
        ("2023-11-16", "2023-11-16T00:00:02Z", 2.0),
    ],
)
def test_times_may_be_written_by_iso_8601(tmp_path: Path, first: str, second: str, apart_s: float) -> None:
    header = "TIMESTAMP,ContextTokens,GeneratedTokens"
    trace = read_trace(write(tmp_path, "iso.csv", header, f"{first},5,5", f"{second},5,5"), strict=True)

    assert trace.requests[1].arrival_s == pytest.approx(apart_s, abs=1e-6)


def test_requests_from_json_lines_are_in_milliseconds(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "requests.jsonl",
        '{"timestamp": 1000, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]}',
        '{"timestamp": 3500, "input_length": 7322, "output_length": 490, "hash_ids": []}',
    )

    trace = read_trace(path)

    assert isinstance(trace, RequestTrace)
    assert trace.requests == (Request(0, 0.0, 6758, 500), Request(1, 2.5, 7322, 490))


@pytest.mark.parametrize(
    ("lines", "unit", "column", "rate_at_30_s"),
    [
        (("utc,rpm", "2024-05-12 00:00:00,600", "2024-05-12 00:01:00,1200"), "requests", None, 15.0),
        (("t_s,rps", "0,10", "60,20"), "requests", None, 15.0),
        (("t_s,prod,dev", "0,61440,6144", "60,122880,12288"), "prompt tokens", None, 1.5),
        (("t_s,prod,dev", "0,61440,6144", "60,122880,12288"), "prompt tokens", "dev", 0.15),
    ],
)
def test_rates_become_requests_per_second(
    tmp_path: Path, lines: tuple[str, ...], unit: str, column: str | None, rate_at_30_s: float
) -> None:
    trace = read_trace(write(tmp_path, "rates.csv", *lines))

    assert isinstance(trace, RateTrace)
    assert trace.unit == unit
    assert trace.shape(column, tokens_per_request=1024).rate(30) == pytest.approx(rate_at_30_s)


@pytest.mark.parametrize(
    ("name", "lines", "named"),
    [
        ("a.csv", ("when,what", "1,2"), ("when,what", "expected", "utc,rpm")),
        ("a.csv", (), ("it is empty", "expected", "utc,rpm")),
        ("a.csv", ("t_s,rps", "0,1", "60,many"), ("line 3", "60,many")),
        ("a.csv", ("TIMESTAMP,ContextTokens,GeneratedTokens", "2023-11-16 18:15:46.68,374"), ("line 2",)),
        ("a.jsonl", ('{"timestamp": 0, "input_length": 1}',), ("line 1", "output_length")),
    ],
)
def test_a_broken_file_is_named_with_its_line(
    tmp_path: Path, name: str, lines: tuple[str, ...], named: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_trace(write(tmp_path, name, *lines))

    assert all(text in str(caught.value) for text in (name, *named))


def test_a_missing_file_and_a_missing_column_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.csv"):
        read_trace(tmp_path / "nowhere.csv")
    trace = read_trace(write(tmp_path, "rates.csv", "t_s,prod,dev", "0,1,2", "60,1,2"))
    assert isinstance(trace, RateTrace)
    with pytest.raises(ConfigurationError, match="'test' does not exist; there are: prod, dev"):
        trace.shape("test")


def test_a_window_starts_at_zero_and_numbers_anew() -> None:
    requests = [Request(number, number * 10.0, 5, 5) for number in range(10)]

    assert [(r.id, r.arrival_s) for r in window(requests, 30.0, 25.0)] == [(0, 0.0), (1, 10.0), (2, 20.0)]


@pytest.mark.parametrize("factor", [0.3, 1.0, 2.5])
def test_scaling_keeps_the_mix_and_changes_the_number(factor: float) -> None:
    requests = [Request(number, number * 0.1, 100 + number % 7, 10) for number in range(2000)]

    more = scaled(requests, factor, duration_s=200.0, seed=1)

    assert len(more) == pytest.approx(2000 * factor, rel=0.08)
    assert [r.arrival_s for r in more] == sorted(r.arrival_s for r in more)
    assert {r.prompt_tokens for r in more} == {r.prompt_tokens for r in requests}
    assert all(0 <= r.arrival_s < 200.0 for r in more)


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("azure2023_conv.csv", None),
        ("azure2023_code.csv", None),
        ("mooncake_conversation.jsonl", None),
        ("azure2024_conv_sun-wed.csv", "requests"),
        ("servegen_m-small_week1.csv", "requests"),
        ("servegen_deepseek-r1.csv", "requests"),
        ("sageserve_C.csv", "prompt tokens"),
    ],
)
def test_public_traces_are_read(name: str, unit: str | None) -> None:
    path = TRACES / name
    if not path.exists():
        pytest.skip(f"{name} is not at hand; set EBBTIDE_TRACES to a folder with public traces")

    trace = read_trace(path)

    if isinstance(trace, RateTrace):
        assert trace.unit == unit
        assert trace.shape().peak_rate > 1
    else:
        assert unit is None
        assert len(trace.requests) > 5000
        assert 3000 < trace.duration_s < 4000


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\xff\xfe\x00rates", "no text in UTF-8"),
        (b"t_s,rps\n", "0 rates cover no time"),
        (b"t_s,rps\n0,5\n", "1 rates cover no time"),
        (b"t_s,rps\n0,5\n0,5\n", "2 rates cover no time"),
        (b"t_s,rps\n10,5\n0,5\n", "line 3: time 0: it is 10 s before the line above; times must not go back"),
        (
            b"utc,rpm\n2024-05-10T00:02:00,5\n2024-05-10T00:01:00,5\n",
            "line 3: time 2024-05-10T00:01:00: it is 60 s before the line above; times must not go back",
        ),
        (b"t_s,rps\n0,5\n1700000000.5,5\n1700000000.25,5\n", "line 4: time 1700000000.25: it is 0.25 s before the"),
        (b"t_s,rps\n0,5\n10\n", "line 3: '10': 1 column, 2 are expected as in its header"),
        (b"t_s,rps\n0,5\n\n", "line 3: '': 0 columns, 2 are expected"),
        (b"t_s,prod,dev\n0,5,6\n60,5\n", "line 3: '60,5': 2 columns, 3 are expected"),
        (
            b"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,374\n",
            "line 2: '2023-11-16 18:15:46,374': 2 columns, 3 are expected as in its header",
        ),
        (b"t_s,rps\n0,5\n10,nan\n", "line 3: '10,nan': nan is no rate: 0 or more is allowed"),
        (b"t_s,rps\n0,-5\n10,5\n", "line 2: '0,-5': -5 is no rate"),
        (b"t_s,rps\n0,inf\n10,5\n", "line 2: '0,inf': inf is no rate"),
        (b"t_s,rps\n0,5\nnan,5\n", "line 3: 'nan,5': nan is no time"),
    ],
)
def test_a_file_that_is_no_trace_is_refused_with_the_reason(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "load.csv"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=re.escape(why)) as refused:
        read_trace(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rates.csv", "t_s,rps\n0,5\n60,6\n"),
        ("requests.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,374,44\n"),
        ("requests.jsonl", '{"timestamp": 0, "input_length": 3, "output_length": 2}\n'),
    ],
)
def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path, name: str, content: str) -> None:
    plain, marked = tmp_path / f"plain-{name}", tmp_path / f"marked-{name}"
    plain.write_text(content)
    marked.write_text(content, encoding="utf-8-sig")
    assert marked.read_bytes().startswith(b"\xef\xbb\xbf")
    assert read_trace(marked) == read_trace(plain)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["a folder", "a pipe that nobody writes to"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "t.csv")
    with pytest.raises(ConfigurationError, match=r"trace .*t\.csv: it is no regular file"):
        read_trace(tmp_path / "t.csv")
