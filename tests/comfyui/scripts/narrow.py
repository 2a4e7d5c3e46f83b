"""Small builds of ComfyUI's own text encoders: its classes, narrow, with random weights."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "support"))

import comfy.sd
import comfy.sd1_clip
import torch
from comfy.sd1_clip import SDClipModel
from produced import StateDict, linear_names, randomise
from small_encoders import CLIP, LLAMA, T5, SmallEncoder

# Towers beside the language model, which no prompt runs through: as large as they are in the real one.
TOWERS = ("visual.", "vision_model.", "audio_", "vision_", "multi_modal_projector.")


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

    turns, seen = itertools.cycle(kinds), {}

    def kind_of(state):
        # the same file is looked at more than once; which kind it is nobody can tell by so small a one
        names = frozenset(state)
        if not names or names not in seen:
            seen[names] = next(turns)
        return seen[names]

    SDClipModel.__init__, comfy.sd.CLIP.__init__ = narrowed, without_tokenizer
    comfy.sd.detect_te_model = kind_of
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
