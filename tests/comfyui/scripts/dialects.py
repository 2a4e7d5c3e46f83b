"""One forward of the digits model from each dialect's file: core's UNETLoader beside LoadFP8Checkpoint."""

from __future__ import annotations

from inside import BF16, REQUEST, answer, error, forward, fp8, pack, unet, unload

pack()
want = forward(unet(BF16))


def core(name: str) -> float | str:
    try:
        return error(forward(unet(name)), want)
    except Exception as failure:
        return type(failure).__name__
    finally:
        unload()


def ours(name: str) -> dict:
    try:
        model, _, _, report = fp8(name)
        got = error(forward(model), want)
    except Exception as failure:
        return {"refused": f"{type(failure).__name__}: {failure}"}
    finally:
        unload()
    dialect = model.get_attachment("scaled_fp8_verdict").dialect
    return {"error": got, "gemm": on_codes(name), "report": report, "dialect": dialect}


def on_codes(name: str) -> float | None:
    """The same through FP8 GEMMs, which auto leaves alone on a CPU; None where no layer fits one."""
    try:
        return error(forward(fp8(name, compute="scaled_mm")[0]), want)
    except Exception as failure:
        assert "scaled_mm" in str(failure), failure
        return None
    finally:
        unload()


answer({name: {"core": core(file), **ours(file)} for name, file in REQUEST["files"].items()})
