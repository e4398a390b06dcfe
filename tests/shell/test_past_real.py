"""What is asked of kube-state-metrics, against a real Prometheus: pods and nodes that were there for a moment."""

import json
import time
from collections.abc import Iterator

import pytest

from ebbtide.clock import unix_time_s
from ebbtide.observe.past import ask
from ebbtide.observe.past_nodes import Place
from ebbtide.observe.prometheus import Prometheus
from ebbtide.observe.settings import PrometheusSettings
from tests.shell.observing import Exposition
from tests.shell.prometheus_server import running
from tests.shell.test_past import BY_NODE, SERVICES

pytestmark = pytest.mark.cluster
CREATED_S = 1_700_000_000
PLACES = {
    "n1": Place("uid-n1", "h100", "nvidia.com/gpu", float(CREATED_S)),
    "again": Place("uid-again", "h100", "nvidia.com/gpu", CREATED_S + 7000.0),
}


def said(uid: str, pod: str, gpus: int, bound_s: float, node: str = "n1") -> str:
    """As kube-state-metrics says it, of two containers; one that asks for no GPU has no such line."""
    labels = f'namespace="team",pod="{pod}",uid="{uid}"'
    here = f'{labels},node="{node}"'
    each = f'{here},resource="nvidia_com_gpu",unit="integer"'
    return "\n".join(
        (
            f'kube_pod_container_resource_requests{{{each},container="a"}} {gpus - 1}',
            f'kube_pod_container_resource_requests{{{each},container="b"}} 1',
            f'kube_pod_container_resource_requests{{{here},resource="cpu",unit="core",container="a"}} 4',
            f"kube_pod_status_scheduled_time{{{labels}}} {bound_s:.0f}",
        )
    )


def node(name: str, gpus: int, created_s: int, pool: str = "h100") -> str:
    """The same of a node, with the one label that it is told to tell."""
    labels = f'kube_node_labels{{node="{name}",label_example_com_gpu_type="{pool}"}} 1'
    if not pool:
        labels = f'kube_node_labels{{node="{name}"}} 1'
    return "\n".join(
        (
            f'kube_node_status_allocatable{{node="{name}",resource="nvidia_com_gpu",unit="integer"}} {gpus}',
            f'kube_node_status_allocatable{{node="{name}",resource="cpu",unit="core"}} 96',
            f'kube_node_created{{node="{name}"}} {created_s:.9e}',
            labels,
        )
    )


@pytest.fixture(scope="module")
def looked(
    tmp_path_factory: pytest.TempPathFactory, unused_tcp_port_factory: "type[int]"
) -> Iterator[tuple[str, float, float]]:
    """(URL, when it began, when it ended): `stays` all the time, `brief` from 2 s to 5 s after the first scrape.

    So is node `n2`; `again` is another one from then on.
    """
    folder, began_s = tmp_path_factory.mktemp("prometheus"), unix_time_s()
    state = {"began": 0.0}

    def answer(_path: str) -> tuple[int, str]:
        state["began"] = state["began"] or time.monotonic()
        age_s = time.monotonic() - state["began"]
        lines = [said("stays", "chat-7d9f8b6c5-x2x7p", 4, began_s - 600), node("n1", 8, CREATED_S)]
        lines.append(node("again", 8, CREATED_S + (7000 if age_s > 3.5 else 5000)))
        if 2.0 <= age_s <= 5.0:
            lines.append(said("brief", "chat-long-7d9f8b6c5-abcde", 2, unix_time_s(), "n2"))
            lines += [node("n2", 4, CREATED_S + 6000), node("unlabelled", 2, CREATED_S + 6500, "")]
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
            while not state["began"] or time.monotonic() < state["began"] + 9:  # the first scrape may come late
                time.sleep(0.1)
            yield url, began_s, unix_time_s()


async def test_who_was_there_for_a_moment_is_found_with_its_gpus_and_times(looked: tuple[str, float, float]) -> None:
    url, began_s, ended_s = looked
    hole = (int(began_s) - 60, int(ended_s))
    async with Prometheus(PrometheusSettings(url=url)) as prometheus:
        found = await ask(prometheus, "", hole, PLACES, SERVICES, BY_NODE)
    assert found.why == ""
    by_uid = {item.uid: item for item in found.holdings if not item.is_node}
    assert {uid: (item.gpus, item.payer.service) for uid, item in by_uid.items()} == {
        "stays": (4, "chat"),
        "brief": (2, "long"),
    }
    assert by_uid["stays"].begin_s == pytest.approx(began_s - 600, abs=1.0)
    assert began_s < by_uid["brief"].begin_s < ended_s
    assert by_uid["brief"].end_s == hole[1], "a minute after it was seen last is later than anybody asked for"


async def test_nodes_that_are_gone_are_found_with_their_gpus_pools_and_times(
    looked: tuple[str, float, float],
) -> None:
    url, began_s, ended_s = looked
    hole = (int(began_s) - 60, int(ended_s) + 120)
    async with Prometheus(PrometheusSettings(url=url)) as prometheus:
        found = await ask(prometheus, "", hole, PLACES, SERVICES, BY_NODE)
    nodes = {int(item.begin_s) - CREATED_S: item for item in found.holdings if item.is_node}
    assert {begin: (item.gpus, item.payer.pool) for begin, item in nodes.items()} == {
        5000: (8, "h100"),  # before the one of the same name
        6000: (4, "h100"),
        6500: (2, ""),
    }
    assert nodes[5000].end_s == CREATED_S + 7000, "by then there was the next of that name"
    for begin in (6000, 6500):
        assert began_s + 60 < (nodes[begin].end_s or 0) < ended_s + 60, "a minute after it was seen"
    (brief,) = (item for item in found.holdings if item.uid == "brief")
    assert brief.node == nodes[6000].uid


async def test_matchers_go_into_every_query(looked: tuple[str, float, float]) -> None:
    url, began_s, ended_s = looked
    hole = (int(began_s) - 60, int(ended_s))
    async with Prometheus(PrometheusSettings(url=url)) as prometheus:
        mine = await ask(prometheus, 'job="ksm"', hole, PLACES, SERVICES, BY_NODE)
        none = await ask(prometheus, 'job="elsewhere"', hole, PLACES, SERVICES, BY_NODE)
    assert len(mine.holdings) == 2 + 3 and none.holdings == ()
    assert "Prometheus has no kube_pod_container" in none.why and "no kube_node_created" in none.why
