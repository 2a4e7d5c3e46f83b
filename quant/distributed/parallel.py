"""A Linear whose weight lies on several devices as DTensors, by rows or by columns, under torch.distributed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import Refused
from ..weights.weight import QuantizedWeight
from .gathering import Shard as RowShard
from .gathering import parts_of
from .parts import ALONG, TILED, Share, scale_step

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor, Placement

# (activations ``[..., in]``, bias) -> ``[..., out]``
Product = Callable[[Tensor, "Tensor | None"], Tensor]


def is_parallel(tensor: object) -> bool:
    """Whether tensor is a DTensor; without importing what they need where nobody has."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Any) -> Any:
    """What this device holds of a tensor."""
    return tensor._local_tensor if is_parallel(tensor) else tensor


def held(bias: Any) -> Any:
    """The same of a bias, whose gradient passes."""
    return bias.to_local() if is_parallel(bias) else bias


def placement_of(weight: DTensor) -> Placement:
    if weight.device_mesh.ndim != 1:
        raise Refused(
            f"mesh {tuple(weight.device_mesh.shape)} has a weight that cannot be computed with; "
            "give parallelize_module one dimension, such as mesh['tp']."
        )
    return weight.placements[0]


def parallel_linear(x: Tensor, weight: DTensor, bias: Tensor | None, by_rows: Product, by_columns: Product) -> Tensor:
    """``[..., in] -> [..., out]`` as a DTensor: outputs lie where their rows do; what columns give is summed."""
    from torch.distributed.tensor import DTensor, Replicate, Shard

    mesh, placement = weight.device_mesh, placement_of(weight)
    if not isinstance(x, DTensor):
        x = DTensor.from_local(x, mesh, [Replicate()], run_check=False)
    check_inputs(x, weight)
    columns = isinstance(placement, Shard) and placement.dim == 1
    x = x.redistribute(mesh, [Shard(x.ndim - 1) if columns else Replicate()])
    if columns:
        return summed(by_columns(x.to_local(), None), x.dtype, weight, bias)
    y = by_rows(x.to_local(), held(bias))
    if not isinstance(placement, Shard):
        return DTensor.from_local(y, mesh, [Replicate()], run_check=False)
    shape = (*x.shape[:-1], weight.shape[0])
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(y, mesh, [Shard(x.ndim - 1)], run_check=False, shape=torch.Size(shape), stride=stride)


def check_inputs(x: DTensor, weight: DTensor) -> None:
    """Refused where parts of unlike sizes were taken for even ones on their way from another layer."""
    if x.shape[-1] != weight.shape[1]:
        raise Refused(
            f"Activations of {x.shape[-1]} features meet a weight of {weight.shape[1]} inputs: their parts were taken "
            "for even ones; give the ColwiseParallel before it use_local_output=False."
        )


def summed(y: Tensor, dtype: torch.dtype, weight: DTensor, bias: Tensor | None) -> DTensor:
    """Every device's part of the sum, added in float32 before the only rounding."""
    from torch.distributed.tensor import DTensor, Partial, Replicate

    mesh = weight.device_mesh
    whole = DTensor.from_local(y, mesh, [Partial()], run_check=False).redistribute(mesh, [Replicate()])
    found = whole.to_local() if bias is None else whole.to_local() + held(bias)
    return DTensor.from_local(found.to(dtype), mesh, [Replicate()], run_check=False)


##### As tensors of a state dict


def spread_tensors(weight: QuantizedWeight, whole: DTensor) -> dict[str, Tensor]:
    """Each tensor of a part, by field: a DTensor where it lies with the part, itself where all devices hold it."""
    from torch.distributed.tensor import DTensor, Shard

    placement = whole.placements[-1]
    along = lying_along(weight, placement.dim) if isinstance(placement, Shard) else {}
    fields = ("codes", *TILED, *ALONG[0], *ALONG[1], "input_scale", "codebook")
    own = {name: getattr(weight, name) for name in fields if getattr(weight, name) is not None}
    mesh = whole.device_mesh
    return {
        name: DTensor.from_local(part, mesh, [Shard(along[name])], run_check=False, **full_size(weight, name, whole))
        if name in along
        else part
        for name, part in own.items()
    }


def lying_along(weight: QuantizedWeight, dim: int) -> dict[str, int]:
    """Field -> its own dimension that lies along the weight's."""
    if dim == 0:
        return dict.fromkeys(parts_of(weight), 0)
    tiled = dict.fromkeys(TILED, 1) if scale_step(weight, 1) else {}
    found = {"codes": 1} | tiled | ALONG[1]
    return {name: own for name, own in found.items() if getattr(weight, name) is not None}


def full_size(weight: QuantizedWeight, name: str, whole: DTensor) -> dict[str, Any]:
    """Shape and stride that a field of the whole weight has, of which devices hold parts."""
    rows, columns = whole.shape
    shapes = {
        "codes": (rows, columns // weight.format.per_byte),
        **dict.fromkeys(TILED, weight.granularity.scale_shape((rows, columns))),
        "outer": (rows, 1),
        "up": (rows, -1 if weight.up is None else weight.up.shape[1]),
        "smooth": (columns,),
        "down": (-1 if weight.down is None else weight.down.shape[0], columns),
    }
    shape = torch.Size(shapes[name])
    return {"shape": shape, "stride": torch.empty(shape, device="meta").stride()}


##### Into the place of ordinary weights


def place_in_mesh(weight: DTensor) -> tuple[int, Share]:
    """Along which dimension a weight is cut, and which part this device holds."""
    placement = placement_of(weight)
    dim = getattr(placement, "dim", 0)
    return (dim, Share.of(weight.device_mesh)) if placement.is_shard() else (0, Share(0, 1))


def in_place_of(before: Tensor, part: nn.Parameter) -> nn.Parameter:
    """A part of a weight as what lies where a DTensor lies; itself in the place of anything else."""
    if not is_parallel(before) or before is part:
        return part
    from torch.distributed.tensor import DTensor

    spread = DTensor.from_local(
        part.detach(), before.device_mesh, before.placements, run_check=False,  # type: ignore[attr-defined]
        shape=before.shape, stride=before.stride(),
    )  # fmt: skip
    return nn.Parameter(spread, requires_grad=False)


##### Back to what was there before


def spread_like(original: nn.Parameter, weight: DTensor) -> nn.Parameter:
    """An ordinary parameter, which every device holds, cut as a weight is that took its place."""
    from torch.distributed.tensor import distribute_tensor

    cut = distribute_tensor(original.detach(), weight.device_mesh, weight.placements, src_data_rank=None)
    return nn.Parameter(cut, requires_grad=original.requires_grad)


def fsdp_params(root: nn.Module) -> Iterator[Any]:
    """What FSDP2 keeps of each parameter that it shards inside of root."""
    module = sys.modules.get("torch.distributed.fsdp._fully_shard._fsdp_state")
    states = (module._get_module_fsdp_state(m) for m in root.modules()) if module else ()
    for state in filter(None, states):
        groups = getattr(state, "_fsdp_param_groups", None) or [state._fsdp_param_group]
        for group in filter(None, groups):
            yield from group.fsdp_params


def keeps(kept: Any, linear: nn.Linear) -> bool:
    return kept._module_info.module is linear and kept._module_info.param_name == "weight"


def unscaled_class(linear: nn.Linear, base: type[nn.Linear]) -> type[nn.Linear]:
    """The class that linear had, which FSDP2 mixes its own into where it shards a Linear by itself."""
    module = sys.modules.get("torch.distributed.fsdp")
    if module is None or not isinstance(linear, module.FSDPModule):
        return base
    return type(f"FSDP{base.__name__}", (module.FSDPModule, base), {})


def kept_of(linear: nn.Linear, sharded: Iterable[Any]) -> Any:
    """What FSDP2 keeps of a Linear's weight, None where it does not shard it."""
    return next((one for one in sharded if keeps(one, linear)), None)


def shard_of(kept: Any) -> RowShard:
    """Of which weight a device's rows are a part, where FSDP2 has cut it."""
    rows, columns = kept._orig_size
    return RowShard((rows, columns), kept.padded_sharded_param_size[0])


def shard_again(kept: Any, parameter: nn.Parameter) -> None:
    """Have FSDP2 go on with another parameter: one that is cut as its own was, or a whole one, which it cuts."""
    kept.to_sharded()
    if is_parallel(parameter) and parameter.device_mesh == kept._sharding_spec.mesh:  # type: ignore[attr-defined]
        kept._setattr_on_modules(parameter)
        if type(local(parameter)) is not Tensor:
            # of a plain tensor before it, FSDP2 would ask whether both lie at one address
            kept._sharded_param_data = local(parameter)
        kept.reset_sharded_param()
    else:
        kept._init_sharded_param(parameter, kept.device, None, kept.mesh_info)
    vars(kept).pop("_unsharded_param", None)
    kept.all_gather_outputs = []
    kept._init_extensions()
    kept.init_dtype_attrs(kept.mp_policy)
