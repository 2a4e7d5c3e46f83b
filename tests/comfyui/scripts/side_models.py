"""What stands beside diffusion models, in core's own classes: converted, then read by core's own loaders."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import comfy.audio_encoders.audio_encoders as audio
import comfy.clip_vision
import comfy.controlnet
import comfy.image_encoders.dino3
import comfy.ldm.flux.redux
import comfy.lora
import comfy.ops
import comfy.sd
import comfy.t2i_adapter.adapter
import comfy.utils
import folder_paths
import torch
from comfy.gligen import GatedSelfAttentionDense, PositionNet
from inside import BASE, answer, call, extra, pack, refused, save_file
from produced import StateDict, randomise, tensors_in, worst

torch.set_num_threads(1)
pack()
ENGINE = next(name for name in sys.modules if name.endswith("scaled-fp8.quant"))
convert = importlib.import_module(f"{ENGINE}.conversion.converter").convert
Request = importlib.import_module(f"{ENGINE}.conversion.request").Request
PATCHES = extra("nodes_model_patch.py")["ModelPatchLoader"].load_model_patch.__globals__
FILES = BASE / "models" / "model_patches"
FILES.mkdir(exist_ok=True)
SOURCE, TARGET = (str(FILES / name) for name in ("side.safetensors", "side-fp8.safetensors"))


@dataclass(frozen=True)
class Side:
    """make: what a file holds; load: what core has in memory of a file's path."""

    make: Callable[[], StateDict]
    load: Callable[[str], StateDict]


def file_of(module: torch.nn.Module) -> StateDict:
    torch.manual_seed(0)
    randomise(module)
    return {name: tensor.clone().contiguous() for name, tensor in module.state_dict().items()}


##### Encoders of images and sounds: as many layers as core tells them by, and narrow


@contextlib.contextmanager
def narrow(cls: type, **sizes: int) -> Iterator[None]:
    start = cls.__init__

    def narrowed(self, config):
        if not isinstance(config, dict):
            config = json.loads(Path(config).read_text())
        start(self, {**config, **sizes})

    cls.__init__ = narrowed
    try:
        yield
    finally:
        cls.__init__ = start


WIDTHS = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "image_size": 28, "patch_size": 14}
FOLDER = comfy.clip_vision.__file__.rpartition("/")[0]
IMAGES = {
    "CLIP vision": f"{FOLDER}/clip_vision_config_vitl.json",
    "DINOv2": f"{FOLDER}/image_encoders/dino2_large.json",
    "DINOv3": f"{FOLDER}/image_encoders/dino3_large.json",
}
SOUNDS = {
    "wav2vec 2.0": {
        "model_type": "wav2vec2", "embed_dim": 768, "num_heads": 12, "num_layers": 12, "conv_norm": False,
        "conv_bias": False, "do_normalize": False, "do_stable_layer_norm": False,
    },
    "Whisper": {"model_type": "whisper3"},
}  # fmt: skip


def image_encoder(config: str) -> StateDict:
    with narrow(comfy.clip_vision.ClipVisionModel, **WIDTHS):
        return file_of(comfy.clip_vision.ClipVisionModel(config).model)


def read_images(path: str) -> StateDict:
    with narrow(comfy.clip_vision.ClipVisionModel, **WIDTHS):
        return tensors_in(comfy.clip_vision.load(path).model)


FEW = {"wav2vec 2.0": {"num_layers": 2}, "Whisper": {"n_audio_state": 64, "n_audio_head": 4, "n_audio_layer": 2}}


def sound_encoder(name: str) -> StateDict:
    with narrow(audio.AudioEncoderModel, **FEW[name]):
        tensors = file_of(audio.AudioEncoderModel(dict(SOUNDS[name])).model)
    return {f"model.{key}" if name == "Whisper" else key: tensor for key, tensor in tensors.items()}


def read_sounds(path: str, name: str) -> StateDict:
    with narrow(audio.AudioEncoderModel, **FEW[name]):
        return tensors_in(audio.load_audio_encoder_from_sd(comfy.utils.load_torch_file(path)).model)


##### What changes a model


def gligen() -> StateDict:
    blocks = file_of(GatedSelfAttentionDense(64, 768, 8, 8))
    found = {f"input_blocks.1.1.transformer_blocks.0.fuser.{name}": tensor for name, tensor in blocks.items()}
    return found | {f"position_net.{name}": tensor for name, tensor in file_of(PositionNet(768, 768)).items()}


def lora(down: str, up: str) -> StateDict:
    torch.manual_seed(0)
    layers = [f"diffusion_model.blocks.{index}.q" for index in range(2)]
    found = {f"{layer}.{down}.weight": torch.randn(16, 64) / 8 for layer in layers}
    return found | {f"{layer}.{up}.weight": torch.randn(64, 16) / 8 for layer in layers}


def read_lora(path: str) -> StateDict:
    keys = {f"diffusion_model.blocks.{index}.q": f"{index}" for index in range(2)}
    found = comfy.lora.load_lora(comfy.utils.load_torch_file(path), keys)
    return {f"{key}.{part}": found[key].weights[part] for key in found for part in (0, 1)}


def adapter() -> StateDict:
    sizes = {"cin": 192, "channels": [32, 64, 128, 128], "nums_rb": 2, "ksize": 1, "sk": True}
    return file_of(comfy.t2i_adapter.adapter.Adapter(**sizes, use_conv=False, xl=False))


def style(path: str) -> StateDict:
    known, comfy.ldm.flux.redux.ReduxImageEncoder = comfy.ldm.flux.redux.ReduxImageEncoder, Redux
    try:
        return tensors_in(comfy.sd.load_style_model(path).model)
    finally:
        comfy.ldm.flux.redux.ReduxImageEncoder = known


Redux = partial(comfy.ldm.flux.redux.ReduxImageEncoder, 32, 64)


def patch() -> StateDict:
    tensors = file_of(PATCHES["SigLIPMultiFeatProjModel"](dtype=torch.bfloat16, operations=comfy.ops.manual_cast))
    return {f"feature_embedder.{name}": tensor for name, tensor in tensors.items()}


def read_patch(path: str) -> StateDict:
    folder_paths.filename_list_cache.clear()
    return tensors_in(call("ModelPatchLoader", name=Path(path).name)[0].model)


SIDES = {
    **{name: Side(partial(image_encoder, config), read_images) for name, config in IMAGES.items()},
    **{name: Side(partial(sound_encoder, name), partial(read_sounds, name=name)) for name in SOUNDS},
    "GLIGEN": Side(gligen, lambda path: tensors_in(comfy.sd.load_gligen(path).model)),
    "LoRA": Side(partial(lora, "lora_down", "lora_up"), read_lora),
    "LoRA by diffusers": Side(partial(lora, "lora_A", "lora_B"), read_lora),
    "T2I adapter": Side(adapter, lambda path: tensors_in(comfy.controlnet.load_controlnet(path).t2i_model)),
    "Redux": Side(lambda: file_of(Redux()), style),
    "SigLIP projector": Side(patch, read_patch),
}


def figures(side: Side) -> dict:
    save_file(side.make(), SOURCE)
    want = side.load(SOURCE)
    found = {"said": refused(convert, SOURCE, TARGET, "float8_e4m3fn")}
    try:
        done = convert(SOURCE, TARGET, Request("float8_e4m3fn", unsupported=True))
        found["quantized"] = sum(row.quantized for row in done.rows)
        found["off"] = worst(side.load(TARGET), want)[0]
    except Exception as problem:
        found["problem"] = f"{type(problem).__name__}: {problem}"[:300]
    return found


answer({name: figures(side) for name, side in SIDES.items()})
