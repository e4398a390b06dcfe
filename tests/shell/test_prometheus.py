"""The way to Prometheus, against HTTP servers that misbehave: deadlines, credentials, cut-off and partial answers."""

import base64
import json
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.errors import ConfigurationError, RetryableError
from ebbtide.model.snapshot import Quality
from ebbtide.observe.metrics import EngineMetrics
from ebbtide.observe.prometheus import Labels, Point, Prometheus, Sample, decode_stream
from ebbtide.observe.queries import QUERY_COUNT
from ebbtide.observe.settings import PrometheusSettings
from ebbtide.sandbox.certs import Authority, Pair


def vector(*rows: tuple[dict[str, str], str], **more: Any) -> bytes:
    """An answer in the compact form of Prometheus."""
    result = [{"metric": labels, "value": [1000.5, value]} for labels, value in rows]
    body = {"status": "success", "data": {"resultType": "vector", "result": result}} | more
    return json.dumps(body, separators=(",", ":")).encode()


class Server:
    """Records requests; `answer(form)` gives (status, body), or is slow."""

    def __init__(self, certificate: Pair | None = None) -> None:
        self.forms: list[dict[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.status, self.body, self.wait_s = 200, vector(), 0.0
        self.fail_first = 0
        self.sent_bytes = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                outer.forms.append({k: v[0] for k, v in parse_qs(self.rfile.read(length).decode()).items()})
                outer.headers.append(dict(self.headers))
                outer.paths.append(self.path)
                if outer.fail_first > 0:
                    outer.fail_first -= 1
                    self.close_connection = True
                    return
                self.send_response(outer.status)
                self.end_headers()
                for start in range(0, len(outer.body), 100):
                    self.wfile.write(outer.body[start : start + 100])
                    outer.sent_bytes += 100
                    time.sleep(outer.wait_s)

            def log_message(self, *_: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                pass

        self.server = Quiet(("127.0.0.1", 0), Handler)
        scheme = "http"
        if certificate is not None:
            context, scheme = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), "https"
            context.load_cert_chain(certificate.certificate, certificate.key)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"{scheme}://127.0.0.1:{self.server.server_address[1]}"


@contextmanager
def serving(running: Server) -> Iterator[Server]:
    thread = Thread(target=running.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield running
    finally:
        running.server.shutdown()
        thread.join()
        running.server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as running:
        yield running


async def ask(settings: PrometheusSettings, text: str = "up") -> list[Sample]:
    rows: list[Sample] = []
    async with Prometheus(settings) as prometheus:
        await prometheus.query(text, 1234.5, rows.extend)
    return rows


async def test_one_query_has_its_time_its_deadline_and_no_partial_answers(server: Server) -> None:
    server.body = vector(({"namespace": "a", "pod": "p", "slot": "running.0.0"}, "3"))
    rows = await ask(PrometheusSettings(url=server.url + "/", query_timeout_s=4), "sum(x)")
    assert rows == [Sample(Labels(namespace="a", pod="p", slot="running.0.0"), Point(1000.5, "3"))]
    assert server.paths == ["/api/v1/query"], "the query travels in the body, not in the URL"
    form = server.forms[0]
    assert (form["query"], form["time"], form["partial_response"]) == ("sum(x)", "1234.500", "false")
    assert 0 < int(form["timeout"].removesuffix("ms")) <= 4000


async def test_a_rotated_token_is_used_at_once(server: Server, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    async with Prometheus(PrometheusSettings(url=server.url, token_file=token)) as prometheus:
        await prometheus.query("up", 1.0, list)
        token.write_text("second\n")
        await prometheus.query("up", 1.0, list)
    assert [headers["Authorization"] for headers in server.headers] == ["Bearer first", "Bearer second"]


async def test_rotated_authorities_are_believed_at_once_and_the_old_ones_no_longer(tmp_path: Path) -> None:
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    certificate = new.server("prometheus", [], ["127.0.0.1"])
    trusted = tmp_path / "ca.crt"

    def rotate(authority: Authority) -> None:
        (tmp_path / "next").write_bytes(authority.pair.certificate.read_bytes())
        (tmp_path / "next").replace(trusted)  # as a kubelet does it: never half a file

    with serving(Server(certificate)) as server:
        assert server.url.startswith("https://")
        async with Prometheus(PrometheusSettings(url=server.url, ca_file=trusted)) as prometheus:
            for authority, accepted in ((old, 0), (new, 1), (old, 1), (new, 2)):
                rotate(authority)
                if accepted == len(server.forms):
                    with pytest.raises(RetryableError, match="certificate"):
                        await prometheus.query("up", 1.0, list)
                else:
                    await prometheus.query("up", 1.0, list)
                assert len(server.forms) == accepted


async def test_a_file_of_authorities_that_is_not_there_is_named(server: Server, tmp_path: Path) -> None:
    with pytest.raises(RetryableError, match=r"missing\.crt"):
        await ask(PrometheusSettings(url=server.url.replace("http:", "https:"), ca_file=tmp_path / "missing.crt"))


async def test_basic_auth_and_tenant(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # must not be used
    password = tmp_path / "password"
    password.write_text("s3cret")
    settings = PrometheusSettings(
        url=server.url, username="ebb", password_file=password, tenant="team", tenant_header="THANOS-TENANT"
    )
    await ask(settings)
    assert server.headers[0]["Authorization"] == "Basic " + base64.b64encode(b"ebb:s3cret").decode()
    assert server.headers[0]["THANOS-TENANT"] == "team"


async def test_a_secret_that_is_not_there_is_named(server: Server, tmp_path: Path) -> None:
    with pytest.raises(RetryableError, match=r"cannot read .*/token: No such file"):
        await ask(PrometheusSettings(url=server.url, token_file=tmp_path / "token"))


async def test_a_broken_connection_is_tried_once_more(server: Server) -> None:
    server.fail_first = 1
    server.body = vector(({"pod": "p"}, "1"))
    assert len(await ask(PrometheusSettings(url=server.url))) == 1
    server.fail_first = 2
    with pytest.raises(RetryableError, match="Prometheus at"):
        await ask(PrometheusSettings(url=server.url))


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        pytest.param(
            503, b'{"status":"error","error":"query timed out"}', "HTTP 503: query timed out", id="its own words"
        ),
        pytest.param(502, b"<html>bad gateway</html>", "HTTP 502: <html>bad gateway", id="a proxy's words"),
        pytest.param(200, b'{"status":"error","error":"no"}', "no", id="an error with HTTP 200"),
        pytest.param(200, vector(({"pod": "p"}, "1"))[:-20], "Prometheus at", id="cut off"),
        pytest.param(200, b"", "Prometheus at", id="empty"),
        pytest.param(200, b"<html>login</html>", "Prometheus at", id="a login page"),
        pytest.param(
            200, vector(warnings=["store 10.0.0.7: connection refused"]), "partial answer: store", id="Thanos: partial"
        ),
        pytest.param(
            200, b'{"status":"success","data":{"resultType":"scalar","result":[1,"2"]}}', "Prometheus", id="a scalar"
        ),
    ],
)
async def test_what_is_no_complete_answer_is_an_error(server: Server, status: int, body: bytes, said: str) -> None:
    server.status, server.body = status, body
    with pytest.raises(RetryableError, match=said):
        await ask(PrometheusSettings(url=server.url))


async def test_comments_on_the_query_are_no_partial_answer(server: Server) -> None:
    server.body = vector(({"pod": "p"}, "1"), warnings=["PromQL info: metric might not be a counter"])
    assert len(await ask(PrometheusSettings(url=server.url))) == 1


async def test_an_answer_that_drips_ends_at_the_deadline(server: Server) -> None:
    server.body, server.wait_s = vector(*[({"pod": f"p{n}"}, "1") for n in range(500)]), 0.05
    with pytest.raises(RetryableError, match="longer than the query timeout"):
        await ask(PrometheusSettings(url=server.url, query_timeout_s=0.6))
    assert server.sent_bytes < len(server.body), "nobody waited for the rest"


async def test_a_server_that_is_not_there(unused_tcp_port: int) -> None:
    with pytest.raises(RetryableError, match=r"Prometheus at http://127\.0\.0\.1"):
        await ask(PrometheusSettings(url=f"http://127.0.0.1:{unused_tcp_port}"))


def test_an_address_without_scheme_is_refused_with_advice() -> None:
    with pytest.raises(ConfigurationError, match=r"prometheus.url is 'prometheus:9090': it must start with http"):
        Prometheus(PrometheusSettings(url="prometheus:9090"))


async def test_an_outage_keeps_the_last_round_and_is_said_at_once(server: Server) -> None:
    server.body = vector(({"namespace": "a", "pod": "p", "slot": "running.0.0", "le": "1"}, "3"))
    settings = PrometheusSettings(url=server.url)
    async with Prometheus(settings) as prometheus:
        metrics = EngineMetrics(prometheus, settings)
        await metrics.collect({"a/p"}, 1000.0)
        assert len(server.forms) == QUERY_COUNT
        assert {form["time"] for form in server.forms} == {"1000.000"}, "one moment for all queries"
        assert [source.healthy for source in metrics.sources(1000.0)] == [True, True]
        server.status, server.body = 503, b'{"status":"error","error":"down"}'
        await metrics.collect({"a/p"}, 1010.0)
        source = metrics.sources(1010.0)[0]
        assert (source.name, source.healthy, source.age_s) == ("prometheus", False, 10.0)
        assert "down" in source.message
        # the canned body answers the age query with "3 s" too
        engine = metrics.snapshot().engine("a/p", 1010.0)
        assert engine is not None and engine.running.age_s == 13.0
        later = metrics.snapshot().engine("a/p", 1090.0)
        assert later is not None and later.running.quality is Quality.STALE


async def test_without_prometheus_everything_is_unknown_and_said() -> None:
    metrics = EngineMetrics(None, PrometheusSettings())
    await metrics.collect({"a/p"}, 1000.0)
    assert metrics.snapshot().engine("a/p", 1000.0) is None
    assert not metrics.sources(1000.0)[0].healthy


texts = st.text(max_size=12)
rows = st.lists(st.tuples(st.fixed_dictionaries({"pod": texts, "namespace": texts}), st.just("1.5")), max_size=30)


@given(rows=rows, size=st.integers(1, 400))
def test_pieces_of_any_size_give_the_same_rows(rows: list[tuple[dict[str, str], str]], size: int) -> None:
    body = vector(*rows)
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    seen = [sample for batch in decode_stream(chunks) for sample in batch]
    assert [(sample.metric.pod, sample.metric.namespace) for sample in seen] == [
        (labels["pod"], labels["namespace"]) for labels, _ in rows
    ]


@given(rows=st.lists(st.tuples(st.just({"pod": "p"}), st.just("1")), min_size=1, max_size=20), data=st.data())
def test_an_answer_that_is_cut_off_anywhere_is_an_error(
    rows: list[tuple[dict[str, str], str]], data: st.DataObject
) -> None:
    body = vector(*rows)
    cut = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(ValueError):
        list(decode_stream([body[:cut]]))
