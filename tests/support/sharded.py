"""What a rank sees of scaled Linears under FSDP2, tensor parallelism and distributed checkpoints: plain numbers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed as dist
from comfy_kitchen.tensor import QuantizedTensor
from safetensors.torch import save_file
from scaled_fp8 import quant
from scaled_fp8.quant.nn.tensor import ScaledTensor, to_tensor
from scaled_fp8.quant.weights.native import native_tensors
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

CASES = [(f, g.name) for f in quant.FORMATS.values() for g in f.granularities]
IN, HIDDEN, OUT = 512, 1024, 512


def model(dtype: torch.dtype = torch.float32, hidden: int = HIDDEN) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(IN, hidden), nn.ReLU(), nn.Linear(hidden, OUT)).to(dtype)


def quantized(net: nn.Module, format: quant.Format, granularity: str) -> dict[str, quant.QuantizedWeight]:
    weights = {name: layer.weight.detach() for name, layer in net.named_children() if isinstance(layer, nn.Linear)}
    return {name: quant.quantize(w, format, format.granularity(granularity)) for name, w in weights.items()}


def size(weight: quant.QuantizedWeight) -> int:
    return sum(v.nbytes for v in vars(weight).values() if isinstance(v, Tensor))


def held(net: nn.Module) -> int:
    """Bytes of the scaled weights that this rank holds."""
    tensors = (layer.weight._local_tensor for layer in net if isinstance(layer, nn.Linear))
    return sum(t._qdata.nbytes + sum(getattr(t._params, n).nbytes for n in t._params._tensor_fields()) for t in tensors)


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


def own_mesh() -> DeviceMesh:
    return init_device_mesh("cpu", (dist.get_world_size(),))


def shared_folder() -> Path:
    folder = [tempfile.mkdtemp() if dist.get_rank() == 0 else ""]
    dist.broadcast_object_list(folder)
    return Path(folder[0])


def parallelized(net: nn.Module, source: int | None = None, whole: bool = False) -> nn.Module:
    """whole: what goes from one layer to the next knows of which whole it is a part."""
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    plan = {"0": ColwiseParallel(use_local_output=not whole), "2": RowwiseParallel()}
    return parallelize_module(net, own_mesh(), plan, src_data_rank=source)


@torch.no_grad()
def fsdp() -> dict:
    from torch.distributed.fsdp import fully_shard

    mesh, x, found = own_mesh(), torch.randn(5, IN), {}
    for format, granularity in CASES:
        net = model()
        before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        weights = quantized(net, format, granularity)
        whole = sum(map(size, weights.values()))
        handle = quant.patch_linears(net, weights)
        wanted = net(x)
        fully_shard(net, mesh=mesh)
        same = [torch.equal(net(x), wanted)]
        # a second time after its weights were let go
        net.reshard()
        same.append(torch.equal(net(x), wanted))
        net.reshard()
        given = [t for layer in (net[0], net[2]) for t in layer.weight._local_tensor.fsdp_pre_all_gather(mesh)[0]]
        share, sent = held(net) / whole, sum(t.nbytes for t in given) / whole
        handle.restore()
        restored = all(torch.equal(p.full_tensor(), before[name]) for name, p in net.named_parameters())
        found[f"{format.name} {granularity}"] = {"same": same, "share": share, "sent": sent, "restored": restored}
    return found


@torch.no_grad()
def fsdp_uneven() -> dict:
    """Rows that do not divide, and blocks that do not either."""
    from torch.distributed.fsdp import fully_shard

    x, found = torch.randn(5, IN), {}
    for granularity in ("per-row", "block"):
        net = model(hidden=333)
        quant.patch_linears(net, quantized(net, quant.FORMATS["float8_e4m3fn"], granularity))
        wanted = net(x)
        try:
            fully_shard(net, mesh=own_mesh())
            found[granularity] = bool(torch.equal(net(x), wanted))
        except quant.Refused as refusal:
            found[granularity] = str(refusal)
    return found


@torch.no_grad()
def component() -> dict:
    """A module quantized for good holds no second copy of its weights."""
    from torch.distributed.fsdp import fully_shard

    x = torch.randn(5, IN, dtype=torch.bfloat16)
    net, _ = quant.quantize_component(model(torch.bfloat16), "fp8-dynamic", backend="patched")
    wanted = net(x)
    fully_shard(net, mesh=own_mesh())
    same = torch.equal(net(x), wanted)
    scaled = [layer for layer in net if getattr(layer, "scaled", None)]
    return {"same": same, "layers": len(scaled), "kept": [layer.scaled.original is not None for layer in scaled]}


@torch.no_grad()
def tensor_parallel() -> dict:
    rank, count, found = dist.get_rank(), dist.get_world_size(), {}
    for dtype, source in ((torch.float32, 0), (torch.bfloat16, None)):
        x = torch.randn(2, 5, IN, dtype=dtype)
        for format, granularity in CASES:
            net = model(dtype)
            before, weights = net[2].weight.detach().clone(), quantized(net, format, granularity)
            handle = quant.patch_linears(net, weights)
            rows, wanted = net[0](x), net(x)
            # the last layer alone, by float32 arithmetic
            middle = net[1](net[0](x))
            exact = middle.float() @ weights["2"].dequantize().T + net[2].bias.float()
            parallelized(net, source)
            found[f"{format.name} {granularity} {dtype}"] = result = {
                "same": torch.equal(net[0](x), rows.chunk(count, -1)[rank]),
                "error": error(net(x), wanted),
                "exact": error(net(x), exact),
                "alone": error(wanted, exact),
                "share": held(net) / sum(map(size, weights.values())),
            }
            handle.restore()
            result["restored"] = torch.equal(net[2].weight.full_tensor(), before)
    return found


@torch.no_grad()
def tensor_parallel_uneven() -> dict:
    """Rows and columns that do not divide; the same on their way as even parts; groups and rotations that do not."""
    x, found = torch.randn(5, IN), {}
    for format, hidden, whole in (
        ("float8_e4m3fn", 333, True), ("int8", 333, True), ("int8", 333, False), ("mxfp8", 352, True),
        ("int8_convrot", 320, True),
    ):  # fmt: skip
        net, kind = model(hidden=hidden), quant.FORMATS[format]
        before = net[2].weight.detach().clone()
        granularity = "group" if format == "mxfp8" else "per-row"
        handle = quant.patch_linears(net, quantized(net, kind, granularity))
        wanted = net(x)
        try:
            parallelized(net, whole=whole)
            result = error(net(x), wanted)
            handle.restore()
            found[f"{format} {whole}"] = result, torch.equal(net[2].weight.full_tensor(), before)
        except quant.Refused as refusal:
            found[f"{format} {whole}"] = str(refusal)
    return found


@torch.no_grad()
def checkpointed_under_fsdp() -> dict:
    """The same of what FSDP2 has cut."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.fsdp import fully_shard

    folder, x, found = shared_folder(), torch.randn(5, IN), {}
    for format, granularity in CASES:
        net, name = model(), f"{format.name} {granularity}"
        quant.patch_linears(net, quantized(net, format, granularity))
        fully_shard(net, mesh=own_mesh())
        wanted = net(x)
        net.reshard()
        dcp.save(net.state_dict(), checkpoint_id=folder / name)
        spoil(net)
        spoiled = not torch.equal(net(x), wanted)
        net.reshard()
        state = net.state_dict()
        dcp.load(state, checkpoint_id=folder / name)
        net.load_state_dict(state)
        found[name] = spoiled and torch.equal(net(x), wanted)
    return found


def spoil(net: nn.Module) -> None:
    for layer in (net[0], net[2]):
        layer.weight._local_tensor._qdata.view(torch.uint8).zero_()
        layer.weight._local_tensor._params.scale.zero_()


@torch.no_grad()
def checkpointed() -> dict:
    """Saved by torch.distributed.checkpoint, spoiled, loaded."""
    import torch.distributed.checkpoint as dcp

    folder, x, found = shared_folder(), torch.randn(5, IN), {}
    for format, granularity in CASES:
        net, name = model(), f"{format.name} {granularity}"
        quant.patch_linears(net, quantized(net, format, granularity))
        parallelized(net)
        wanted = net(x)
        dcp.save(net.state_dict(), checkpoint_id=folder / name)
        spoil(net)
        spoiled = not torch.equal(net(x), wanted)
        state = net.state_dict()
        dcp.load(state, checkpoint_id=folder / name)
        net.load_state_dict(state)
        found[name] = spoiled and torch.equal(net(x), wanted)
    return found


def write_once(weights: dict[str, quant.QuantizedWeight], path: Path) -> None:
    """A file of scaled weights as ComfyUI has them, there for every rank."""
    if dist.get_rank() == 0:
        save_file({k: t for name, w in weights.items() for k, t in native_tensors(w, f"{name}.").items()}, path)
    dist.barrier()


@torch.no_grad()
def read_parts() -> dict:
    """Each rank reads its own rows, or columns, of a file and nothing else of it."""
    folder, x, found = shared_folder(), torch.randn(5, IN), {}
    for format, granularity in CASES:
        name, net = f"{format.name} {granularity}", model()
        path, weights = folder / f"{name}.safetensors", quantized(net, format, granularity)
        write_once(weights, path)
        biases = {at: net[at].bias.detach().clone() for at in (0, 2)}
        quant.patch_linears(net, weights)
        wanted = net(x)
        with torch.device("meta"):
            empty = parallelized(nn.Sequential(nn.Linear(IN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, OUT)))
        cut_biases(empty, biases)
        checkpoint = quant.read_checkpoint(path, mesh=own_mesh())
        # what is looked at before, to tell whether numbers are sound, has a bound that small files are below
        counted = Counted(checkpoint.source)
        quant.patch_linears(empty, checkpoint)
        found[name] = {"error": error(empty(x), wanted), "read": counted.read / counted.whole}
    return found


def cut_biases(net: nn.Module, biases: dict[int, Tensor]) -> None:
    for at, bias in biases.items():
        cut = torch.distributed.tensor.distribute_tensor(bias, own_mesh(), net[at].bias.placements)
        net[at].bias = nn.Parameter(cut, requires_grad=False)


@torch.no_grad()
def fsdp_from_file() -> dict:
    """Each rank of an FSDP module without weights reads the rows that it keeps and no others."""
    from torch.distributed.fsdp import fully_shard

    folder, x, found = shared_folder(), torch.randn(5, IN), {}
    for hidden, format, granularity in (
        (333, quant.FORMATS["float8_e4m3fn"], "per-row"),
        *((HIDDEN, *c) for c in CASES),
    ):
        name, net = f"{hidden} {format.name} {granularity}", model(hidden=hidden)
        path, weights = folder / f"{name}.safetensors", quantized(net, format, granularity)
        write_once(weights, path)
        biases = {at: net[at].bias.detach().clone() for at in (0, 2)}
        quant.patch_linears(net, weights)
        wanted = net(x)
        with torch.device("meta"):
            empty = nn.Sequential(nn.Linear(IN, hidden), nn.ReLU(), nn.Linear(hidden, OUT))
        fully_shard(empty, mesh=own_mesh())
        checkpoint = quant.read_checkpoint(path, mesh=own_mesh())
        counted = Counted(checkpoint.source)
        handle = quant.patch_linears(empty, checkpoint)
        cut_biases(empty, biases)
        same = [torch.equal(empty(x), wanted)]
        empty.reshard()
        same.append(torch.equal(empty(x), wanted))
        empty.reshard()
        share = held(empty) / sum(map(size, weights.values()))
        handle.restore()
        found[name] = {
            "same": same,
            "share": share,
            "read": counted.read / counted.whole,
            "restored": type(empty[0]) is nn.Linear and empty[0].weight.to_local().is_meta,
        }
    return found


@torch.no_grad()
def patched_under_fsdp() -> list[bool]:
    """A module that is sharded already: patched, restored, patched again."""
    from torch.distributed.fsdp import fully_shard

    x, net, reference = torch.randn(5, IN), model(), model()
    weights = quantized(net, quant.FORMATS["float8_e4m3fn"], "per-row")
    plain = net(x)
    quant.patch_linears(reference, weights)
    fully_shard(net, mesh=own_mesh())
    found = []
    for _ in range(2):
        handle = quant.patch_linears(net, weights)
        found.append(torch.equal(net(x), reference(x)))
        net.reshard()
        handle.restore()
        found.append(torch.equal(net(x), plain))
        net.reshard()
    return found


@torch.no_grad()
def grid() -> dict:
    """Two dimensions: tensor parallelism inside, FSDP2 outside; where there are four ranks."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    found: dict[str, dict] = {}
    if dist.get_world_size() != 4:
        return found
    mesh, x = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp")), torch.randn(5, IN)
    for format, granularity in CASES:
        net = model()
        before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        weights = quantized(net, format, granularity)
        handle = quant.patch_linears(net, weights)
        wanted = net(x)
        parallelize_module(net, mesh["tp"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
        fully_shard(net, mesh=mesh["dp"])
        errors = []
        for _ in range(2):
            errors.append(error(net(x), wanted))
            net.reshard()
        found[f"{format.name} {granularity}"] = result = {
            "error": max(errors),
            "share": held(net) / sum(map(size, weights.values())),
        }
        handle.restore()
        result["restored"] = all(torch.equal(p.full_tensor(), before[name]) for name, p in net.named_parameters())
    return found


def different_files() -> list[str]:
    """What each rank is told where one has another file: of other shapes, and of other weights."""
    folder, found = shared_folder(), []
    for at, hidden in enumerate((HIDDEN // 2, HIDDEN)):
        own = folder / f"{at}-{dist.get_rank() == 1}.safetensors"
        if dist.get_rank() in (0, 1):
            torch.manual_seed(dist.get_rank())
            net = model(hidden=hidden if dist.get_rank() else HIDDEN)
            shift = float(dist.get_rank())
            save_file({f"{name}.weight": net[int(name)].weight.detach() + shift for name in "02"}, own)
        dist.barrier()
        try:
            quant.read_checkpoint(own, mesh=own_mesh())
            found.append("")
        except quant.Refused as refusal:
            found.append(str(refusal))
    return found


class Counted:
    """Counts the bytes of codes that are read of a source from now on. whole: those of all codes."""

    def __init__(self, source: quant.Source) -> None:
        codes = [name for name in source if name.endswith(".weight")]
        self.read, self.whole = 0, sum(source[name].nbytes for name in codes)
        for name in codes:
            source.stored[name] = Watched(source.stored[name], self)


class Watched:
    def __init__(self, stored: object, counted: Counted) -> None:
        self.stored, self.counted = stored, counted
        self.info, self.origin, self.path = stored.info, stored.origin, stored.path

    def read(self, start: int, stop: int) -> Tensor:
        self.counted.read += stop - start
        return self.stored.read(start, stop)


@contextmanager
def hooks_of_raylight() -> Iterator[None]:
    """As raylight 1.5 patches comfy-kitchen while it runs: hooks on its tensor class, which ask the layout alone."""

    def before(self, mesh):
        return self.layout_cls.pre_all_gather(self, mesh)

    def after(self, outputs, metadata, param_dtype, *, out=None):
        return self.layout_cls.post_all_gather(self, outputs, metadata, param_dtype, out=out)

    hooks = {"fsdp_pre_all_gather": before, "fsdp_post_all_gather": after}
    own = {name: vars(ScaledTensor)[name] for name in hooks}
    for name in hooks:
        delattr(ScaledTensor, name)
    try:
        with patch.multiple(QuantizedTensor, create=True, **hooks):
            yield
    finally:
        for name, hook in own.items():
            setattr(ScaledTensor, name, hook)


@torch.no_grad()
def fsdp_by_hooks_of_the_layout() -> dict:
    from torch.distributed.fsdp import fully_shard

    mesh, x, found = own_mesh(), torch.randn(5, IN), {}
    with hooks_of_raylight():
        for format, granularity in CASES:
            net = model()
            quant.patch_linears(net, quantized(net, format, granularity))
            wanted = net(x)
            fully_shard(net, mesh=mesh)
            found[f"{format.name} {granularity}"] = torch.equal(net(x), wanted)
    return found


@torch.no_grad()
def loaded_by_raylight() -> dict:
    """As raylight 1.5 loads a state dict into a module that is sharded already: it cuts the codes of a comfy-kitchen
    tensor, leaves all else of its layout as it is, and computes with what the layout gathers."""
    from torch.distributed.fsdp import fully_shard

    mesh, x, found = own_mesh(), torch.randn(5, IN), {}
    with hooks_of_raylight():
        # of codes in halves of a byte it gives the shape of the bytes, which torch refuses to load
        for format, granularity in [case for case in CASES if case[0].per_byte == 1]:
            source = model()
            weights = quantized(source, format, granularity)
            with torch.device("meta"):
                net = nn.Sequential(nn.Linear(IN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, OUT)).requires_grad_(False)
            fully_shard(net, mesh=mesh)
            empty = net.state_dict()
            whole = source.state_dict() | {f"{name}.weight": to_tensor(w, torch.float32) for name, w in weights.items()}
            parts = {name: cut_by_raylight(tensor, empty[name]) for name, tensor in whole.items()}
            net.load_state_dict(parts, assign=True)
            dense = nn.Sequential(nn.Linear(IN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, OUT))
            dense.load_state_dict(source.state_dict() | {f"{n}.weight": w.dequantize() for n, w in weights.items()})
            errors = [error(net(x), dense(x))]
            net.reshard()
            errors.append(error(net(x), dense(x)))
            net.reshard()
            given = net[0].weight._local_tensor.fsdp_pre_all_gather(mesh)[0]
            sent = sum(t.nbytes for t in given) / size(weights["0"])
            found[f"{format.name} {granularity}"] = {"error": max(errors), "sent": sent}
    return found


def cut_by_raylight(tensor: Tensor, like: Tensor) -> nn.Parameter:
    def rows(whole: Tensor) -> Tensor:
        return torch.tensor_split(whole, like.device_mesh.size(), dim=0)[like.device_mesh.get_local_rank()]

    if isinstance(tensor, QuantizedTensor):
        codes = rows(tensor._qdata)
        own = QuantizedTensor(codes, tensor._layout_cls, replace(tensor._params, orig_shape=tuple(codes.shape)))
    else:
        own = rows(tensor)
    whole = torch.distributed.tensor.DTensor.from_local(own, device_mesh=like.device_mesh, placements=like.placements)
    return nn.Parameter(whole, requires_grad=False)


def everything() -> dict:
    torch.manual_seed(1)
    parts = (
        fsdp, fsdp_by_hooks_of_the_layout, loaded_by_raylight, fsdp_uneven, fsdp_from_file, patched_under_fsdp,
        component, tensor_parallel, tensor_parallel_uneven, grid, checkpointed, checkpointed_under_fsdp, read_parts,
        different_files,
    )  # fmt: skip
    return {part.__name__: part() for part in parts}
