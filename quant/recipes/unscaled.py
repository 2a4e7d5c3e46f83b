"""What ComfyUI core 0.33 builds without operations that know scales: it takes codes for weights, mostly in silence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .policy import bare_name, found_in

# name of a tensor -> its shape without quantization
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Unscaled:
    """One kind of file, or part of one, that core reads without its scales.

    signs: each a set of patterns that all match some name without its prefix, any set will do; absent: pattern of what
    core does read; outputs: of the layers that are looked at, where names alone do not tell; node: of this pack, which
    reads it, "" for none; instead: what else can be done; silent: not so where core refuses a file that has scales.
    """

    title: str
    signs: tuple[tuple[str, ...], ...]
    node: str = ""
    absent: str = r"(?!)"
    outputs: int | None = None
    instead: str = "leave it as it is"
    silent: bool = True

    def fits(self, shapes: Shapes) -> bool:
        names = [name for name, shape in shapes.items() if self.outputs is None or shape[:1] == (self.outputs,)]
        found = any(all(found_in(names, sign) for sign in signs) for signs in self.signs)
        return found and not found_in(names, self.absent)

    @property
    def fate(self) -> str:
        """What core does with it."""
        return f"drops the scales of {self.title}" if self.silent else f"does not load {self.title} that has scales"

    @property
    def kept(self) -> str:
        """Why a part of this kind stays as it is in a conversion."""
        return f"kept: ComfyUI core {self.fate}"

    @property
    def refusal(self) -> str:
        """Why a file that is nothing else is not quantized, and what to do."""
        here = f", or say --allow-unsupported: {self.node} loads it" if self.node else ""
        return f"ComfyUI core {self.fate}{self.silence}; {self.instead}{here}."

    @property
    def warning(self) -> str:
        """What somebody should know who has such a file."""
        read = f"{self.node} reads them" if self.node else "scaled-fp8 convert --format bfloat16 makes what it reads"
        return f"ComfyUI core {self.fate}{self.silence}; {read}."

    @property
    def silence(self) -> str:
        return ", without an error" if self.silent else ""


ENCODER, MODEL = "Load FP8 Text Encoder", "Load FP8 Checkpoint"
CONTROL_NET = Unscaled("a control net", (
    (r"^(control_model\.)?(zero_convs|input_hint_block)\.0\b",),
    (r"^(controlnet|control|controlnet_down)_blocks\.0\b",),
    (r"^(controlnet_x_embedder|controlnet_cond_embedding\.conv_in|lora_controlnet|after_proj_list\.0)\b",),
    (r"^control_all_x_embedder\.",),
))  # fmt: skip
UNSCALED = (
    CONTROL_NET,
    Unscaled("a Jina CLIP", ((r"(^|\.)encoder\.layers\.0\.mixer\.",),), ENCODER),
    Unscaled("a CLIP", ((r"^(text_model\.)?encoder\.layers\.0\.mlp\.fc1$",), (r"(^|\.)resblocks\.0\.",)), ENCODER),
    Unscaled("a T5-base, UMT5-base or ByT5", ((r"^encoder\.block\.0\.layer\.0\.SelfAttention\.k$",),), ENCODER,
             absent=r"^encoder\.block\.23\."),
    # T5-XXL, which core reads with its scales, has 10240
    Unscaled("a T5-XL", ((r"^encoder\.block\.23\.layer\.1\.DenseReluDense\.wi_1$",),), ENCODER, outputs=5120),
    Unscaled("a T5Gemma", ((r"(^|\.)encoder\.layers\.0\.pre_self_attn_layernorm$",),), ENCODER),
    # not the tower of a language model, which core reads with its scales
    Unscaled("an image encoder", (
        (r"^vision_model\.encoder\.layers\.0\.mlp\.fc1$",),
        (r"^encoder\.layer\.0\.layer_scale1\b",),
        (r"^layer\.0\.attention\.o_proj$",),
    ), absent=r"^layers\.0\."),
    Unscaled("an audio encoder", (
        (r"^(wav2vec2\.)?feature_projection\.projection$",), (r"^encoder\.embed_positions$",),
    )),
    Unscaled("a GLIGEN", ((r"^position_net\.null_positive_feature$",),)),
    Unscaled("a LoRA", ((r"[._]lora(_up|_down|_A|_B|\.up|\.down|_linear_layer\.up)(\.default)?$",),)),
    Unscaled("a style model", ((r"^redux_down$",), (r"^style_embedding$",)), silent=False),
    Unscaled("a model patch", (
        (r"^lllite_conditioning1\.conv1$",),
        (r"^feature_embedder\.mid_layer_norm\b",),
        (r"^controlnet_patch_embedding$",),
        (r"^audio_proj\.proj1$",),
    ), absent=r"^patch_embedding$", silent=False),
    Unscaled("embedders of numbers", ((r"(^|\.)seconds_(start|total)\.embedder\.",),), MODEL),
    Unscaled("a model with diffusers' names, which it renames", (
        (r"^x_embedder$", r"^context_embedder$", r"^transformer_blocks\.0\.attn\.add_q_proj$"),
        (r"^pos_embed\.proj$", r"^transformer_blocks\.0\.attn\.add_q_proj$"),
        (r"^pos_embed\.proj$", r"^adaln_single\.emb\.timestep_embedder\.linear_1$"),
        (r"^joint_transformer_blocks\.0\.attn\.add_k_proj$",),
        (r"^noise_refiner\.0\.attention\.to_q$",),
        (r"^down_blocks\.\d\.attentions\.0\.transformer_blocks\.0\.attn1\.to_q$",),
    ), MODEL, instead="Quantize Model and Save Quantized Model write it with the names that core reads"),
)  # fmt: skip


def unscaled(shapes: Shapes) -> Unscaled | None:
    """The kind that a file's or part's tensors are of, by their names and shapes; None for what core reads with its
    scales."""
    bare = {bare_name(name): shape for name, shape in shapes.items()}
    return next((kind for kind in UNSCALED if kind.fits(bare)), None)
