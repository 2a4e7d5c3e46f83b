"""Core's own UNETLoader on the digits model: the figures that prove this harness."""

from __future__ import annotations

from inside import BF16, answer, error, sample, unet, write_fp8

write_fp8("marked.safetensors", marked=True)
write_fp8("ltx.safetensors", marked=False)
want = sample(unet(BF16))
answer({name: error(sample(unet(f"{name}.safetensors")), want) for name in ("marked", "ltx")})
