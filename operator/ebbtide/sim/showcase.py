"""The fleet of `ebbtide demo`: its services, pools, start-up times and load, drawn from one seed.

The same scenario runs on the real control plane (the demo), in virtual time (the static reference) and in tests. The
load is a day in a few minutes: it grows to its peak before half of the time, ebbs to a tenth and begins to rise again.
A start-up takes up to a quarter of a demo of four minutes, so a replica for the rise must be asked for well before it
is needed. Both variants of `chat` run on A100s, owned and rented, one GPU a replica: the cheapest mix is one of those
with the fewest replicas, and what is saved against the static reference is saved by scaling alone. The fleet serves
already when Ebbtide arrives, as it would anywhere: `WARM_UP_S` seconds of load come before.
"""

import itertools
import math
import random
from collections.abc import Sequence
from decimal import Decimal

import msgspec

from ebbtide.model.spec import (
    DEFAULT_PRIORITY,
    Activator,
    CapacityType,
    Mode,
    Objectives,
    PoolSpec,
    Price,
    Provisioning,
    ScaleToZero,
    Scaling,
    ServiceSpec,
    TargetRef,
    Tariff,
    Toleration,
    VariantSpec,
)
from ebbtide.sim.engine import Request
from ebbtide.sim.fleet import Scenario, ServiceScenario
from ebbtide.sim.load import Constant, Lengths, OnOff, Sampled, Shape, generate
from ebbtide.sim.profiles import profile

NAMESPACE = "demo"
POOL_LABEL = "sandbox.ebbtide.dev/pool"
WARM_UP_S = 45.0
LENGTHS = Lengths(
    prompt_median=500.0,
    prompt_sigma=0.7,
    output_median=190.0,
    output_sigma=0.6,
    output_max=600,
    slow_share=0.02,
)
_SWING = 0.02
# The rise: from this share of the peak at second 0, growing by the same factor each second, before second 0 too.
_FOOT = 0.62
# What follows, (share of the duration, share of the peak); between two of them half a cosine.
_WAVE = ((0.38, 1.0), (0.41, 0.97), (0.50, 0.09), (0.88, 0.09), (1.0, 0.14))
_POINT_S = 2.0


class ShowcasePool(msgspec.Struct, frozen=True):
    """One pool of the demo: `nodes` nodes of `gpus` GPUs."""

    name: str
    product: str
    accelerator: str
    capacity_type: CapacityType
    nodes: int
    gpus: int
    per_gpu_hour: str

    def spec(self) -> PoolSpec:
        """As Ebbtide sees it."""
        return PoolSpec(
            name=self.name,
            uid=self.name,
            generation=1,
            provisioning=Provisioning.STATIC,
            capacity_type=self.capacity_type,
            node_selector=((POOL_LABEL, self.name),),
            resource="nvidia.com/gpu",
            accelerator=self.accelerator,
            price=Price("USD", Tariff(Decimal(self.per_gpu_hour))),
            max_gpus=None,
            node_lead_time_s=240.0,
            tolerations=(Toleration(key="nvidia.com/gpu", effect="NoSchedule"),),
        )


class ShowcaseService(msgspec.Struct, frozen=True):
    """One service of the demo and why it is there. `variants` are (pool, most replicas, replicas at the start)."""

    name: str
    story: str
    engine: str
    mode: Mode
    variants: tuple[tuple[str, int, int], ...]
    shape: Shape
    startup_s: float
    scale_to_zero: bool = False
    rival_hpa: bool = False
    priority: int = DEFAULT_PRIORITY


POOLS = (
    ShowcasePool("a100-on-prem", "NVIDIA-A100-SXM4-80GB", "A100-80GB", CapacityType.ON_PREM, 1, 8, "0.95"),
    ShowcasePool("cloud-a100", "NVIDIA-A100-SXM4-80GB", "A100-80GB", CapacityType.ON_DEMAND, 1, 4, "2.75"),
    ShowcasePool("l40s-on-demand", "NVIDIA-L40S", "L40S", CapacityType.ON_DEMAND, 4, 4, "1.55"),
    ShowcasePool("h100-on-demand", "NVIDIA-H100-80GB-HBM3", "H100-80GB", CapacityType.ON_DEMAND, 1, 8, "6.90"),
    ShowcasePool("h100-spot", "NVIDIA-H100-80GB-HBM3", "H100-80GB", CapacityType.SPOT, 1, 8, "1.25"),
)


def services(duration_s: float, seed: int) -> tuple[ShowcaseService, ...]:
    """The five services; phases, heights and start-up times follow the seed.

    Start-ups take 30 to 60 s: those of a TensorRT engine that was compiled before, 30 to 45; chat's, which compile
    their graphs as they start, 40 to 60.
    """
    draw = random.Random(f"{seed}/showcase")

    def wave(peak: float) -> Sampled:
        knots = [(at * draw.uniform(0.97, 1.03), height * draw.uniform(0.97, 1.03)) for at, height in _WAVE[1:-1]]
        return curve([_WAVE[0], *knots, _WAVE[-1]], duration_s, peak)

    return (
        ShowcaseService(
            name="chat",
            story="vLLM on two pools: on-prem A100 first, rented A100 when they are full",
            engine="vllm",
            mode=Mode.AUTO,
            variants=(("a100-on-prem", 8, 8), ("cloud-a100", 2, 1)),
            shape=wave(draw.uniform(111.0, 114.0)),
            startup_s=draw.uniform(40.0, 60.0),
        ),
        ShowcaseService(
            name="summaries",
            story="TensorRT-LLM on L40S",
            engine="trtllm",
            mode=Mode.AUTO,
            variants=(("l40s-on-demand", 10, 8),),
            shape=wave(draw.uniform(57.4, 58.6)),
            startup_s=draw.uniform(30.0, 45.0),
        ),
        ShowcaseService(
            name="drafts",
            story="scales to zero and back on spot",
            engine="vllm",
            mode=Mode.AUTO,
            variants=(("h100-spot", 2, 1),),
            shape=OnOff(per_second=2.0, on_s=0.42 * duration_s, off_s=duration_s, quiet_s=0.4 * duration_s),
            startup_s=draw.uniform(30.0, 60.0),
            scale_to_zero=True,
        ),
        ShowcaseService(
            name="pilot",
            story="Recommend: says what it would do and writes nothing",
            engine="vllm",
            mode=Mode.RECOMMEND,
            variants=(("h100-on-demand", 4, 2),),
            shape=Constant(per_second=3.0),
            startup_s=draw.uniform(30.0, 60.0),
        ),
        ShowcaseService(
            name="legacy",
            story="an HPA owns its Deployment: TargetConflict, hands off",
            engine="vllm",
            mode=Mode.AUTO,
            variants=(("h100-spot", 4, 1),),
            shape=Constant(per_second=2.0),
            startup_s=draw.uniform(30.0, 60.0),
            rival_hpa=True,
        ),
    )


def service_spec(service: ShowcaseService, activator_url: str) -> ServiceSpec:
    """The service as Ebbtide sees it. A day passes in minutes, so the wait before shrinking is seconds."""
    zero = ScaleToZero(
        after_s=20.0,
        activator=Activator(
            url=activator_url,
            queue_metrics=("inference_extension_flow_control_queue_size",),
            labels=(("inference_pool", service.name),),
        ),
    )
    return ServiceSpec(
        key=f"{NAMESPACE}/{service.name}",
        uid=service.name,
        generation=1,
        mode=service.mode,
        model_name="llama-3-8b",
        model_parameters_billion=8.0,
        objectives=Objectives(ttft_s=2.0, itl_s=0.05, attainment=0.97),
        priority=service.priority,
        variants=tuple(
            VariantSpec(
                name=pool.split("-", maxsplit=1)[0],
                pool=pool,
                target=TargetRef("apps/v1", "Deployment", f"{service.name}-{pool.split('-', maxsplit=1)[0]}"),
                gpus_per_replica=1,
                max_replicas=most,
            )
            for pool, most, _ in service.variants
        ),
        scaling=Scaling(
            min_replicas=0 if service.scale_to_zero else 1,
            max_replicas=sum(most for _, most, _ in service.variants),
            down_delay_s=2.0,
            down_max_per_minute=30,
            scale_to_zero=zero if service.scale_to_zero else None,
        ),
    )


def requests(service: ShowcaseService, duration_s: float, seed: int) -> list[Request]:
    """The service's requests, the same for a seed wherever they are served.

    Those with an arrival below 0 warm the fleet up and are not counted.
    """
    whole_s = WARM_UP_S + duration_s
    stream = generate(_later(service.shape, WARM_UP_S), LENGTHS, whole_s, seed=_mix(seed, service.name), swing=_SWING)
    return shifted(stream, -WARM_UP_S)


def warm_up(service: ShowcaseService, per_second: float, seed: int) -> list[Request]:
    """The warm-up where the counted load is somebody else's trace: steady, with arrivals from `-WARM_UP_S` to 0."""
    stream = generate(Constant(per_second=per_second), LENGTHS, WARM_UP_S, seed=_mix(seed, service.name), swing=_SWING)
    return shifted(stream, -WARM_UP_S)


def shifted(stream: Sequence[Request], by_s: float) -> list[Request]:
    """The same requests `by_s` seconds later."""
    return [msgspec.structs.replace(request, arrival_s=request.arrival_s + by_s) for request in stream]


def budget_services(duration_s: float, seed: int) -> tuple[ShowcaseService, ...]:
    """Those of `--scenario budget`: three that matter more and less, each on GPUs of its own."""
    draw = random.Random(f"{seed}/budget")
    rise = curve([(0.5, 1.0), (0.75, 0.97), (1.0, 0.92)], duration_s, draw.uniform(70.0, 74.0))
    return (
        ShowcaseService(
            name="chat",
            story="priority 300: people wait for it",
            engine="vllm",
            mode=Mode.AUTO,
            variants=(("a100-on-prem", 8, 5),),
            shape=rise,
            startup_s=draw.uniform(30.0, 40.0),
            priority=300,
        ),
        ShowcaseService(
            name="summaries",
            story="priority 100, the default",
            engine="trtllm",
            mode=Mode.AUTO,
            variants=(("l40s-on-demand", 8, 6),),
            shape=Constant(per_second=draw.uniform(30.0, 32.0)),
            startup_s=draw.uniform(30.0, 40.0),
        ),
        ShowcaseService(
            name="backfill",
            story="priority 10: whenever there is money",
            engine="vllm",
            mode=Mode.AUTO,
            variants=(("cloud-a100", 4, 3),),
            shape=Constant(per_second=draw.uniform(32.0, 34.0)),
            startup_s=draw.uniform(30.0, 40.0),
            priority=10,
        ),
    )


def scenario(duration_s: float, seed: int, chosen: Sequence[ShowcaseService] | None = None) -> Scenario:
    """The whole demo in virtual time; of those services, unset of `services`."""
    products = {pool.name: pool.product for pool in POOLS}
    return Scenario(
        seed=seed,
        duration_s=duration_s,
        pools={pool.name: (pool.spec(), pool.nodes, pool.gpus) for pool in POOLS},
        services=tuple(
            _service_scenario(service, products, duration_s, seed)
            for service in (services(duration_s, seed) if chosen is None else chosen)
        ),
    )


def _service_scenario(
    service: ShowcaseService, products: dict[str, str], duration_s: float, seed: int
) -> ServiceScenario:
    spec = service_spec(service, activator_url="http://127.0.0.1/metrics")
    names = {variant.name: variant.pool for variant in spec.variants}
    return ServiceScenario(
        spec=spec,
        profiles={name: profile("8B", products[pool], service.engine) for name, pool in names.items()},
        startup_s=dict.fromkeys(names, (service.startup_s, service.startup_s)),
        gpus_per_replica=dict.fromkeys(names, 1),
        start_replicas=dict(zip(names, (start for _, _, start in service.variants), strict=True)),
        requests=tuple(requests(service, duration_s, seed)),
    )


def curve(knots: Sequence[tuple[float, float]], duration_s: float, peak: float) -> Sampled:
    """A day: growth from `_FOOT` at second 0 to the first knot, then through the knots, flat at each, in requests/s."""
    top_s = knots[0][0] * duration_s
    growth = math.log(knots[0][1] / _FOOT) / top_s
    steps = int((WARM_UP_S + top_s) / _POINT_S)
    points = []
    for step in range(steps):
        at_s = -WARM_UP_S + step * (WARM_UP_S + top_s) / steps
        points.append((at_s, _FOOT * math.exp(growth * at_s) * peak))
    for (begin, low), (end, high) in itertools.pairwise(knots):
        steps = max(2, int((end - begin) * duration_s / _POINT_S))
        for step in range(steps):
            share = (1 - math.cos(math.pi * step / steps)) / 2
            at_s = (begin + (end - begin) * step / steps) * duration_s
            points.append((at_s, (low + (high - low) * share) * peak))
    points.append((duration_s, knots[-1][1] * peak))
    return Sampled(tuple(points))


def _later(shape: Shape, by_s: float) -> Shape:
    """The same shape `by_s` seconds later."""
    if isinstance(shape, Sampled):
        return Sampled(tuple((at_s + by_s, rate) for at_s, rate in shape.points))
    return msgspec.structs.replace(shape, quiet_s=shape.quiet_s + by_s) if isinstance(shape, OnOff) else shape


def _mix(seed: int, name: str) -> int:
    """A seed for each service: the same for every process, unlike `hash`."""
    return random.Random(f"{seed}/{name}").randrange(2**31)
