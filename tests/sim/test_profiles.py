"""Profiles: known pairs build, unknown ones say what is known; table lookups have no holes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.errors import ConfigurationError
from ebbtide.sim.engine import Engine
from ebbtide.sim.profiles import known_profiles, profile
from ebbtide.sim.tables import StepTimes, interpolate, step


@pytest.mark.parametrize(("model", "product"), known_profiles())
@pytest.mark.parametrize("engine", ["vllm", "trtllm"])
def test_every_known_profile_makes_an_engine_with_room_for_its_own_limits(
    model: str, product: str, engine: str
) -> None:
    built = profile(model, product, engine)

    assert Engine(built, 1).kv_usage == 0.0
    assert built.max_num_batched_tokens >= built.max_num_seqs
    assert built.kv_tokens >= built.max_model_tokens


@pytest.mark.parametrize(
    ("model", "product", "engine", "named"),
    [
        ("8B", "NVIDIA-TITAN", "vllm", ("'NVIDIA-TITAN'", "8B on NVIDIA-L40S")),
        ("3B", "NVIDIA-L40S", "vllm", ("'3B'", "70B on NVIDIA-H200")),
        ("70B", "NVIDIA-L40S", "vllm", ("'70B' on 'NVIDIA-L40S'",)),
        ("8B", "NVIDIA-L40S", "tgi", ("'tgi'", "vllm, trtllm")),
    ],
)
def test_an_unknown_profile_names_the_value_and_what_is_known(
    model: str, product: str, engine: str, named: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        profile(model, product, engine)

    assert all(text in str(caught.value) for text in named)


@pytest.mark.parametrize(("x", "y"), [(-1, 1.0), (0, 1.0), (5, 1.5), (10, 2.0), (20, 3.0)])
def test_interpolation_is_flat_before_and_straight_after_the_table(x: float, y: float) -> None:
    assert interpolate(((0, 1.0), (10, 2.0)), x) == y


@pytest.mark.parametrize(("x", "y"), [(-1, 1.0), (0, 1.0), (9.9, 1.0), (10, 2.0), (99, 2.0)])
def test_steps_hold_from_their_point_on(x: float, y: float) -> None:
    assert step(((0, 1.0), (10, 2.0)), x) == y


@settings(deadline=None)
@given(
    decoding=st.integers(0, 256), kv=st.floats(0, 190_000), prompt=st.integers(0, 2048), depth=st.integers(0, 30_000)
)
def test_an_iteration_always_takes_time_and_more_work_in_it_takes_longer(
    decoding: int, kv: float, prompt: int, depth: int
) -> None:
    built = profile("8B", "NVIDIA-L40S")
    times = StepTimes(built.steps, built.max_num_seqs, built.kv_tokens, built.spread, seed=1)

    seconds = times.iteration_s(decoding, kv, prompt, depth)

    assert 0.01 < seconds < 2.0
    assert times.iteration_s(decoding, kv + 2000, prompt, depth) > seconds
    assert times.iteration_s(decoding, kv, prompt + 100, depth) > seconds


def test_the_end_of_a_long_prompt_costs_more_than_its_beginning() -> None:
    built = profile("8B", "NVIDIA-L40S")
    times = StepTimes(built.steps, built.max_num_seqs, built.kv_tokens, built.spread, seed=1)

    assert times.iteration_s(0, 0, 2048, 30_000) > 1.3 * times.iteration_s(0, 0, 2048, 0)
