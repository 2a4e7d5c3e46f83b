"""ScaledLinearPatch on models that core's own UNETLoader loaded: heals, keeps to its clone, stacks nothing."""

from __future__ import annotations

import shutil

import folder_paths
from inside import (
    BF16,
    MODELS,
    answer,
    call,
    error,
    extra,
    forward,
    forward_lowvram,
    identical,
    pack,
    patched,
    same,
    state,
    unet,
    unload,
    write_fp8,
)

pack()
extra("nodes_model_merging.py")
write_fp8("patch-ltx.safetensors", marked=False)
write_fp8("patch-marked.safetensors", marked=True)
FILE = "diffusion_models/patch-ltx.safetensors"
want = forward(unet(BF16))
figures = {}

# healing, and what the original is afterwards
noise = unet("patch-ltx.safetensors")
before, bare = state(noise), forward(noise)
healed, report = patched(noise, scales_from=FILE)
figures["noise"] = error(bare, want)
got = forward(healed)
figures["healed"] = error(got, want)
figures["healed_lowvram"] = error(forward_lowvram(healed), want)
figures["report"] = report
figures["original_output_same"] = identical(forward(noise), bare)
unload()
figures["original_state_same"] = same(state(noise), before)

# clones: two patches of one model, run in turns
upcast = patched(noise, compute="upcast", scales_from=FILE)[0]
matmul = patched(noise, compute="scaled_mm", scales_from=FILE)[0]
first = [forward(upcast), forward(matmul), forward(noise)]
second = [forward(upcast), forward(matmul), forward(noise)]
figures["clones_steady"] = all(identical(a, b) for a, b in zip(first, second, strict=True))
figures["clones_differ"] = not identical(first[0], first[1])
figures["upcast"], figures["scaled_mm"] = error(first[0], want), error(first[1], want)

# the last of two in a row wins
twice = patched(patched(noise, compute="scaled_mm", scales_from=FILE)[0], compute="upcast", scales_from=FILE)[0]
figures["last_wins"] = identical(forward(twice), first[0])
again = patched(upcast, compute="scaled_mm")[0]
figures["last_wins_without_file"] = identical(forward(again), first[1])

# only some layers
some = patched(noise, compute="upcast", layers="single_blocks", scales_from=FILE)[0]
both = patched(some, compute="upcast", layers="double_blocks", scales_from=FILE)[0]
figures["layers_add_up"] = identical(forward(both), first[0])

# a file that core loads right
marked = unet("patch-marked.safetensors")
figures["core_marked"] = error(forward(marked), want)
figures["patched_marked"] = error(forward(patched(marked)[0]), want)
figures["core_marked_same"] = error(forward(marked), want) == figures["core_marked"]

# saving from the patched model, by core's own node
call("ModelSave", model=upcast, filename_prefix="healed", prompt=None, extra_pnginfo=None)
saved = next(p for p in (MODELS.parents[1] / "output").rglob("healed*.safetensors"))
shutil.copy(saved, MODELS / "patch-saved.safetensors")
folder_paths.filename_list_cache.clear()
reloaded = unet("patch-saved.safetensors")
figures["saved_by_core"] = error(forward(reloaded), want)
figures["saved_same"] = error(forward(patched(reloaded, compute="upcast")[0]), first[0])
unload()

figures["final_state_same"] = same(state(noise), before)
answer(figures)
