"""The files that the server's tests choose from."""

from __future__ import annotations

import torch
from inside import MODELS, answer, write_fp8
from safetensors.torch import save_file

write_fp8("server-ltx.safetensors", marked=False)
save_file({"a.weight": torch.zeros(32, 32).to(torch.float8_e4m3fn)}, MODELS / "server-alien.safetensors")
answer({})
