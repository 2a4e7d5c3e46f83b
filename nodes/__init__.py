"""The nodes, thin: one file each."""

from __future__ import annotations

from comfy_api.v0_0_2 import ComfyExtension, io

from .calibrate_model import CalibrateModel
from .compare_models import CompareModels
from .fp8_report import FP8Report
from .load_calibration import LoadCalibration
from .load_checkpoint import LoadFP8Checkpoint
from .load_text_encoder import LoadFP8TextEncoder
from .measure_sensitivity import MeasureSensitivity
from .panel import routes
from .quantize_model import QuantizeModel
from .quantize_text_encoder import QuantizeTextEncoder
from .quantize_vae import QuantizeVAE
from .require_quality import RequireQuality
from .save_calibration import SaveCalibration
from .save_quantized_model import SaveQuantizedModel
from .scaled_linear_patch import ScaledLinearPatch


class ScaledFP8Extension(ComfyExtension):
    async def on_load(self) -> None:
        routes.register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            LoadFP8Checkpoint,
            LoadFP8TextEncoder,
            ScaledLinearPatch,
            QuantizeModel,
            QuantizeTextEncoder,
            QuantizeVAE,
            SaveQuantizedModel,
            FP8Report,
            CalibrateModel,
            SaveCalibration,
            LoadCalibration,
            MeasureSensitivity,
            CompareModels,
            RequireQuality,
        ]
