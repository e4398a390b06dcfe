"""What is asked of kube-state-metrics, against a real Prometheus: pods that were there for a moment."""

import json
import time
from collections.abc import Iterator

import pytest

from ebbtide.clock import unix_time_s
from ebbtide.observe.past import Place, ask
from ebbtide.observe.prometheus import Prometheus
from ebbtide.observe.settings import PrometheusSettings
from tests.shell.observing import Exposition
from tests.shell.prometheus_server import running
from tests.shell.test_past import SERVICES

pytestmark = pytest.mark.cluster
PLACES = {"n1": Place("uid-n1", "h100", "nvidia.com/gpu")}


def said(uid: str, pod: str, gpus: int, bound_s: float) -> str:
    """As kube-state-metrics says it, of two containers; one that asks for no GPU has no such line."""
    labels = f'namespace="team",pod="{pod}",uid="{uid}"'
    each = f'{labels},node="n1",resource="nvidia_com_gpu",unit="integer"'
    return "\n".join(
        (
            f'kube_pod_container_resource_requests{{{each},container="a"}} {gpus - 1}',
            f'kube_pod_container_resource_requests{{{each},container="b"}} 1',
            f'kube_pod_container_resource_requests{{{labels},node="n1",resource="cpu",unit="core",container="a"}} 4',
            f"kube_pod_status_scheduled_time{{{labels}}} {bound_s:.0f}",
        )
    )


@pytest.fixture(scope="module")
def looked(
    tmp_path_factory: pytest.TempPathFactory, unused_tcp_port_factory: "type[int]"
) -> Iterator[tuple[str, float, float]]:
    """(URL, when it began, when it ended): `stays` all the time, `brief` from 2 s to 5 s after the first scrape."""
    folder, began_s = tmp_path_factory.mktemp("prometheus"), unix_time_s()
    state = {"began": 0.0}

    def answer(_path: str) -> tuple[int, str]:
        state["began"] = state["began"] or time.monotonic()
        age_s = time.monotonic() - state["began"]
        lines = [said("stays", "chat-7d9f8b6c5-x2x7p", 4, began_s - 600)]
        if 2.0 <= age_s <= 5.0:
            lines.append(said("brief", "chat-long-7d9f8b6c5-abcde", 2, unix_time_s()))
        return 200, "\n".join(lines) + "\n"

    with Exposition(answer).running() as pages:
        targets = [{"targets": [pages.address]}]
        times = {"scrape_interval": "500ms", "scrape_timeout": "500ms"}
        jobs = [
            {"job_name": name, "honor_labels": True, "static_configs": targets}
            for name in ("ksm", "another-that-says-it")
        ]
        config = json.dumps({"global": times, "scrape_configs": jobs})
        with running(folder, config, unused_tcp_port_factory()) as url:
            time.sleep(9)
            yield url, began_s, unix_time_s()


async def test_who_was_there_for_a_moment_is_found_with_its_gpus_and_times(looked: tuple[str, float, float]) -> None:
    url, began_s, ended_s = looked
    hole = (int(began_s) - 60, int(ended_s))
    async with Prometheus(PrometheusSettings(url=url)) as prometheus:
        found = await ask(prometheus, "", hole, PLACES, SERVICES)
    assert found.why == ""
    by_uid = {item.uid: item for item in found.holdings}
    assert {uid: (item.gpus, item.payer.service) for uid, item in by_uid.items()} == {
        "stays": (4, "chat"),
        "brief": (2, "long"),
    }
    assert by_uid["stays"].begin_s == pytest.approx(began_s - 600, abs=1.0)
    assert began_s < by_uid["brief"].begin_s < ended_s
    assert by_uid["brief"].end_s == hole[1], "a minute after it was seen last is later than anybody asked for"


async def test_matchers_go_into_every_query(looked: tuple[str, float, float]) -> None:
    url, began_s, ended_s = looked
    hole = (int(began_s) - 60, int(ended_s))
    async with Prometheus(PrometheusSettings(url=url)) as prometheus:
        mine = await ask(prometheus, 'job="ksm"', hole, PLACES, SERVICES)
        none = await ask(prometheus, 'job="elsewhere"', hole, PLACES, SERVICES)
    assert len(mine.holdings) == 2 and "Prometheus has no kube_pod_container" in none.why
