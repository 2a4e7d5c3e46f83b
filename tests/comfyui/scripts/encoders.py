"""Small builds of ComfyUI's own text encoders in every dialect, beside core on what each file means."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "support"))

import comfy.sd
import comfy.sd1_clip
import torch
from comfy.sd1_clip import SDClipModel
from inside import BASE, REQUEST, answer, call, error, pack, save_file
from produced import LOG, StateDict, linear_names, randomise, tensors_in, worst, written
from small_encoders import CLIP, ENCODERS, LLAMA, T5, TOO_LARGE, SmallEncoder

FOLDER = BASE / "models" / "text_encoders"
TEXT = "a red fox, 7"
# Towers beside the language model, which no prompt runs through: as large as they are in the real one.
TOWERS = ("visual.", "vision_model.", "audio_", "vision_", "multi_modal_projector.")


##### A narrow text encoder


class Tokens:
    """Stands in for a tokenizer whose vocabulary is in the file; four tokens for each of the encoders."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **kwargs) -> dict[str, list]:
        return {name: [[(token, 1.0) for token in (2, 5, 9, 31)]] for name in self.names}


def narrow(known: dict, sizes: dict) -> dict:
    """An encoder's own settings, but for its widths."""
    if sizes:
        return {**known, **sizes}
    # two encoders in one: each by what its settings are called
    return {**known, **(T5 if "d_model" in known else CLIP if "hidden_size" in known else LLAMA)}


@contextlib.contextmanager
def told(small: SmallEncoder):
    """ComfyUI as if it knew an encoder by other sizes than those it knows."""
    start, detect, encoder = SDClipModel.__init__, comfy.sd.detect_te_model, comfy.sd.CLIP.__init__
    kinds = [comfy.sd.TEModel[kind] for kind in small.kinds]

    def narrowed(self, *args, textmodel_json_config=None, model_options=None, **kwargs):
        options, config = dict(model_options or {}), textmodel_json_config
        if config is None:
            config = Path(comfy.sd1_clip.__file__).parent / "sd1_clip_config.json"
            options.setdefault("model_name", "clip_l")
        known = config if isinstance(config, dict) else json.loads(Path(config).read_text())
        start(self, *args, textmodel_json_config=narrow(known, small.sizes), model_options=options, **kwargs)

    def without_tokenizer(self, target=None, **kwargs):
        if not small.text:
            target.tokenizer = lambda **_: Tokens([])
        encoder(self, target, **kwargs)

    found = iter(kinds * 99)
    SDClipModel.__init__, comfy.sd.CLIP.__init__ = narrowed, without_tokenizer
    comfy.sd.detect_te_model = lambda state: next(found)
    try:
        yield
    finally:
        SDClipModel.__init__, comfy.sd.CLIP.__init__, comfy.sd.detect_te_model = start, encoder, detect


def by_core(small: SmallEncoder, files: list[StateDict]):
    kind = getattr(comfy.sd.CLIPType, small.type.upper(), comfy.sd.CLIPType.STABLE_DIFFUSION)
    return comfy.sd.load_text_encoder_state_dicts([dict(file) for file in files], clip_type=kind)


def parts_of(clip) -> list[torch.nn.Module]:
    """The language models of a CLIP, one a file."""
    return [part.transformer for part in clip.cond_stage_model.modules() if isinstance(part, SDClipModel)]


def built(small: SmallEncoder) -> list[tuple[StateDict, set[str]]]:
    """What its files hold, and which of it are Linears."""
    torch.manual_seed(0)
    clip = by_core(small, [{} for _ in small.kinds])
    parts = [part for part in parts_of(clip) if any(p.numel() for p in part.parameters())]
    for part in parts:
        randomise(part, TOWERS)
        soften(part)
    return [(file_of(part), linear_names(part)) for part in parts]


def soften(part: torch.nn.Module) -> None:
    """T5 has the attention's 1 / sqrt(d) in its queries, from the start of its training."""
    for name, weight in part.named_parameters():
        if name.endswith("SelfAttention.q.weight"):
            weight.data *= T5["d_kv"] ** -0.5


def file_of(part: torch.nn.Module) -> StateDict:
    state = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in part.state_dict().items()}
    return {k: v.clone() for k, v in state.items() if not any(tower in k for tower in TOWERS)}


##### What is compared


def tensors_of(clip) -> StateDict:
    found = {k: v for i, part in enumerate(parts_of(clip)) for k, v in tensors_in(part, f"{i}.").items()}
    return {k: v for k, v in found.items() if not any(tower in k for tower in TOWERS)}


def conditioning(clip) -> torch.Tensor:
    return call("CLIPTextEncode", clip=clip, text=TEXT)[0][0][0].float()


def loaded(small: SmallEncoder, dialect: str, parts: list[tuple[StateDict, set[str]]]) -> dict:
    # beside those of another process
    files = [f"small-{os.getpid()}-{i}.safetensors" for i in range(len(parts))]
    produced = [written(dialect, *part) for part in parts]
    for file, (stored, header, _) in zip(files, produced, strict=True):
        save_file({k: v.contiguous() for k, v in stored.items()}, FOLDER / file, header or None)
    reference = by_core(small, [meant for _, _, meant in produced])
    LOG.lines.clear()
    try:
        given = dict(zip(("text_encoder", "text_encoder_2"), files, strict=False))
        clip, report = call("LoadFP8TextEncoder", type=small.type, **given)
        off, where = worst(tensors_of(clip), tensors_of(reference))
        found = {"weights": off, "where": where, "report": report}
        found["log"] = [line for line in LOG.lines if not any(tower in line for tower in TOWERS)][:3]
        if small.text:
            want = conditioning(reference)
            found["error"] = error(conditioning(clip), want)
        if dialect == "marker":
            core = by_core(small, [dict(stored) for stored, _, _ in produced])
            found["core"] = worst(tensors_of(core), tensors_of(reference))[0]
            if small.text:
                found["core_error"] = error(conditioning(core), want)
        return found
    except Exception as problem:
        return {"refused": f"{type(problem).__name__}: {problem}"[:300]}


def figures(name: str) -> dict:
    small = ENCODERS[name]
    with told(small):
        parts = built(small)
        return {dialect: case(small, dialect, parts) for dialect in REQUEST["dialects"]}


def case(small: SmallEncoder, dialect: str, parts: list[tuple[StateDict, set[str]]]) -> dict:
    try:
        return loaded(small, dialect, parts)
    except Exception as problem:
        return {"refused": f"HARNESS {type(problem).__name__}: {problem}"[:300]}


# small matrices: a second thread costs more than it does
torch.set_num_threads(1)
pack()
built_here = {kind for small in ENCODERS.values() for kind in small.kinds}
answer({
    "figures": {name: figures(name) for name in REQUEST["names"]},
    "new": sorted({kind.name for kind in comfy.sd.TEModel} - built_here - TOO_LARGE.keys()),
})  # fmt: skip
