"""The digits model quantized in the graph by each method: sampled, saved, and the model it came from left alone."""

from __future__ import annotations

from pathlib import Path

from inside import (
    BASE,
    BF16,
    REQUEST,
    answer,
    call,
    error,
    forward,
    fp8,
    load,
    pack,
    same,
    sample,
    save_file,
    state,
    unet,
    unload,
)

pack()
base = unet(BF16)
DIGITS = "0123"
want, want_once, before = sample(base, digits=DIGITS), forward(base), state(base)


def saved(model, name: str) -> str:
    """Written by SaveQuantizedModel and put where the loaders look; its name."""
    call("SaveQuantizedModel", model=model, filename_prefix=f"diffusion_models/{name}")
    written = sorted((BASE / "output" / "diffusion_models").glob(f"{name}_*.safetensors"))[-1]
    written.rename(BASE / "models" / "diffusion_models" / f"{name}.safetensors")
    return f"{name}.safetensors"


def figures(method: str, granularity: str) -> dict:
    model, report = call("QuantizeModel", model=base, method=method, granularity=granularity, keep="")
    latents, once = sample(model, digits=DIGITS), forward(model)
    name = f"quantized-{method}-{granularity}"
    found = {"error": error(latents, want), "report": report}
    if granularity == "per-tensor" or method.startswith("int8"):
        found["file"] = saved(model, name)
        again = fp8(found["file"], compute=REQUEST["compute"].get(method, "auto"))[0]
        found["again"] = error(forward(again), once)
        save_file({"latents": latents}, Path(REQUEST["latents"]) / f"{name}.safetensors")
    unload()
    return found


def refusal(**inputs) -> str:
    try:
        call(
            "QuantizeModel",
            **{"model": base, "method": "fp8-dynamic", "granularity": "per-tensor", "keep": "", **inputs},
        )
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"
    return ""


def unsaveable() -> str:
    model = call("QuantizeModel", model=base, method="fp8-dynamic", granularity="per-row", keep="")[0]
    try:
        saved(model, "unsaveable")
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"
    return ""


def twice() -> str:
    """What is said of layers that are quantized already."""
    model = call("QuantizeModel", model=base, method="int8", granularity="per-row", keep="linear1")[0]
    return call("QuantizeModel", model=model, method="fp8-dynamic", granularity="per-tensor", keep="")[1]


methods = {f"{method} {granularity}": figures(method, granularity) for method, granularity in REQUEST["methods"]}
load(base)
answer({
    "methods": methods,
    "untouched": same(state(base), before),
    "computed again": error(forward(base), want_once),
    "keep": refusal(keep="("),
    "nothing": refusal(keep=".*"),
    "unsaveable": unsaveable(),
    "twice": twice(),
})  # fmt: skip
