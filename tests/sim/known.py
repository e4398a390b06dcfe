"""An engine whose every coefficient is known: what a fit has to find again."""

from ebbtide.sim.fitting import Limits
from ebbtide.sim.profiles import EngineProfile
from ebbtide.sim.tables import StepTables

LIMITS = Limits(kv_tokens=12_000, kv_block_tokens=16, max_num_batched_tokens=256, max_model_tokens=2048)
KNOWN = EngineProfile(
    model="known",
    accelerator="CPU",
    engine="vllm",
    gpus=1,
    steps=StepTables(
        decode_ms=((1, 20.0), (4, 23.0), (8, 31.0), (16, 40.0)),
        kv_read_ms=((0, 0.0), (1000, 0.4)),
        prefill_ms=((0, 0.0), (32, 12.0), (64, 20.0), (128, 45.0), (256, 105.0)),
        batch_steps=((1, 1.0),),
        prefill_depth=((0, 1.0),),
        interference=((0, 1.0),),
    ),
    kv_tokens=LIMITS.kv_tokens,
    max_num_seqs=16,
    max_num_batched_tokens=LIMITS.max_num_batched_tokens,
    max_model_tokens=LIMITS.max_model_tokens,
    frontend_s=0.015,
    spread=0.0,
    jitter=0.02,
    stall_every=0,
)
