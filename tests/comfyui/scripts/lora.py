"""LoRA at full strength on a scaled model: merged and beside, loaded and low-VRAM, against bf16 + LoRA."""

from __future__ import annotations

from inside import (
    BF16,
    answer,
    call,
    error,
    extra,
    forward,
    forward_lowvram,
    fp8,
    identical,
    pack,
    patched,
    same,
    sqnr,
    state,
    unet,
    unload,
    write_fp8,
    write_lora,
)

pack()
extra("nodes_lora_debug.py")
write_fp8("lora-base.safetensors", marked=False)
write_lora("digits-lora.safetensors", strength=1.0)
NODES = {"merged": "LoraLoaderModelOnly", "beside": "LoraLoaderBypassModelOnly"}
REGIMES = {"loaded": forward, "lowvram": forward_lowvram}


def with_lora(model, way: str, strength: float = 1.0):
    return call(NODES[way], model=model, lora_name="digits-lora.safetensors", strength_model=strength)[0]


bf16 = unet(BF16)
plain = forward(bf16)
want = forward(with_lora(bf16, "merged"))
half = forward(with_lora(bf16, "merged", 0.5))
unload()

figures = {"effect": error(plain, want)}


def measure(name: str, model) -> None:
    """SQNR in each way and regime, and what is left when the LoRA is gone."""
    before, bare = state(model), forward(model)
    for way in NODES:
        for regime, run in REGIMES.items():
            lora = with_lora(model, way)
            row = {"sqnr": sqnr(run(lora), want), "again": sqnr(run(lora), want)}
            row["half"] = sqnr(run(with_lora(model, way, 0.5)), half)
            row["exact_output"] = identical(forward(model), bare)
            unload()
            row["exact_state"] = same(state(model), before)
            figures[f"{name}-{way}-{regime}"] = row


# auto upcasts on a CPU; the FP8 GEMM is the harder way
measure("loader", fp8("lora-base.safetensors", compute="scaled_mm")[0])
noise = unet("lora-base.safetensors")
measure("patch", patched(noise, compute="scaled_mm", scales_from="diffusion_models/lora-base.safetensors")[0])
# the order of the two nodes must not matter
lora_first = with_lora(noise, "merged")
healed = patched(lora_first, scales_from="diffusion_models/lora-base.safetensors")[0]
figures["patch-after-lora"] = {"sqnr": sqnr(forward(healed), want), "lowvram": sqnr(forward_lowvram(healed), want)}
# a bypass LoRA leaves the forward of core's class on each module of the plain model
forward(with_lora(noise, "beside"))
fresh = patched(noise, scales_from="diffusion_models/lora-base.safetensors")[0]
figures["patch-after-bypass"] = error(forward(fresh), plain)
marked = "lora-marked.safetensors"
write_fp8(marked, marked=True)
core = unet(marked)
for way in NODES:
    figures[f"core-{way}"] = {regime: sqnr(run(with_lora(core, way)), want) for regime, run in REGIMES.items()}
answer(figures)
