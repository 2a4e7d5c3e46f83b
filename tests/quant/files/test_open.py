"""Sources against the safetensors library: what it reads is read alike, what it refuses is refused."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from scaled_fp8.quant import Refused, StateDictSource, inspect_checkpoint, open_source
from scaled_fp8.quant.files.header import DTYPES
from torch import Tensor

READABLE = {code: dtype for code, (_, dtype) in DTYPES.items() if dtype is not None}
ONE = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}


def raw_file(path: Path, header: object, data: bytes = b"\1\2\3\4", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def library_reads(path: Path) -> bool:
    try:
        with safe_open(path, "pt") as file:
            return bool(file.keys()) or True
    except SafetensorError:
        return False


def same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(as_bytes(a), as_bytes(b))


def as_bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def noise(dtype: torch.dtype, *shape: int) -> Tensor:
    count = max(1, torch.Size(shape).numel()) * dtype.itemsize
    most = 2 if dtype == torch.bool else 256
    data = torch.randint(0, most, (count,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return data.view(dtype)[: torch.Size(shape).numel()].reshape(shape)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.safetensors"


##### Reading


@pytest.mark.parametrize("shape", [(), (5,), (3, 7), (0, 4)], ids=str)
@pytest.mark.parametrize("dtype", READABLE.values(), ids=READABLE)
def test_tensors_are_the_library_s(path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    save_file({"a": noise(torch.uint8, 3), "x.weight": noise(dtype, *shape)}, path, {"key": "value"})
    source = open_source(path)
    assert source.metadata == {"key": "value"}
    assert READABLE[source["x.weight"].dtype] == source["x.weight"].torch_dtype == dtype
    assert source["x.weight"].shape == shape
    for name, tensor in load_file(path).items():
        assert same(source.tensor(name), tensor)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float32], ids=str)
@pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 35), (3, 11), (34, 35)])
def test_a_piece_is_that_part_of_the_whole(path: Path, dtype: torch.dtype, start: int, stop: int) -> None:
    save_file({"a": noise(torch.uint8, 3), "x": noise(dtype, 5, 7)}, path)
    assert same(open_source(path).piece("x", start, stop), load_file(path)["x"].reshape(-1)[start:stop])


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 5)])
def test_a_piece_outside_raises(path: Path, start: int, stop: int) -> None:
    save_file({"x": noise(torch.uint8, 4)}, path)
    with pytest.raises(IndexError):
        open_source(path).piece("x", start, stop)


def test_a_tensor_has_memory_of_its_own(path: Path) -> None:
    save_file({"x": torch.ones(4), "y": torch.ones(4)}, path)
    source = open_source(path)
    source.tensor("x").zero_()
    assert torch.equal(source.tensor("x"), torch.ones(4))
    assert source.tensor("x").untyped_storage().nbytes() == 16


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "F6_E3M2"])
def test_formats_below_a_byte_are_listed_but_not_read(path: Path, dtype: str) -> None:
    nbytes = 8 * DTYPES[dtype][0] // 8
    raw_file(path, {"x": {"dtype": dtype, "shape": [8], "data_offsets": [0, nbytes]}}, bytes(nbytes))
    assert library_reads(path)
    source = open_source(path)
    assert source["x"].nbytes == source.total_bytes == nbytes and source["x"].torch_dtype is None
    with pytest.raises(Refused, match=dtype):
        source.tensor("x")


def test_a_file_changed_meanwhile_is_refused(path: Path) -> None:
    save_file({"x": torch.ones(4)}, path)
    source = open_source(path)
    save_file({"x": torch.ones(5)}, path)
    with pytest.raises(Refused, match="changed"):
        source.tensor("x")


##### Malformed headers

SOUND = {
    "empty": ({}, b""),
    "no metadata": ({"__metadata__": None, "x": ONE}, b"1234"),
    "padded": (json.dumps({"x": ONE}).encode() + b"   ", b"1234"),
    "scalar": ({"x": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}, b"1234"),
    "extra field": ({"x": ONE | {"note": 1}}, b"1234"),
}
# header, data -> and what of them is wrong, as the refusal says it
MALFORMED = {
    "nothing": (b"", b"", "not JSON"),
    "not json": (b"{'x'}", b"", "not JSON"),
    "not utf-8": (b'{"\xff": 1}', b"", "no UTF-8"),
    "list": ([], b"", "not a JSON object"),
    "deep": (b"[" * 100_000, b"", "not JSON"),
    "long integer": (b'{"x":' + b"9" * 10_000 + b"}", b"", "not JSON"),
    "surrogate": (b'{"\\ud800":' + json.dumps(ONE).encode() + b"}", b"1234", "no UTF-8"),
    "nan": (b'{"x": NaN}', b"", "holds NaN"),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, b"", "__metadata__ is not"),
    "metadata list": ({"__metadata__": []}, b"", "__metadata__ is not"),
    "entry is a number": ({"x": 3}, b"", "no pair of data_offsets"),
    "no dtype": ({"x": {"shape": [4], "data_offsets": [0, 4]}}, b"1234", "unknown dtype 'None'"),
    "unknown dtype": ({"x": ONE | {"dtype": "F7"}}, b"1234", "unknown dtype 'F7'"),
    "dtype list": ({"x": ONE | {"dtype": ["U8"]}}, b"1234", "unknown dtype"),
    "no offsets": ({"x": {"dtype": "U8", "shape": [4]}}, b"1234", "no pair of data_offsets"),
    "one offset": ({"x": ONE | {"data_offsets": [0]}}, b"1234", "no pair of data_offsets"),
    "float offset": ({"x": ONE | {"data_offsets": [0, 4.0]}}, b"1234", "no pair of data_offsets"),
    "true offset": ({"x": ONE | {"data_offsets": [False, 4]}}, b"1234", "no pair of data_offsets"),
    "negative offset": ({"x": ONE | {"data_offsets": [-4, 0]}}, b"1234", "no pair of data_offsets"),
    "reversed": ({"x": ONE | {"data_offsets": [4, 0]}}, b"1234", "bytes 4 to 0"),
    "beyond the end": ({"x": ONE | {"shape": [9], "data_offsets": [0, 9]}}, b"1234", "at byte 77, but the file has 72"),
    "hole before": ({"x": ONE | {"data_offsets": [1, 5]}}, b"12345", "bytes 1 to 5"),
    "left over": ({"x": ONE}, b"12345", "end at byte 72, but the file has 73"),
    "cut off": ({"x": ONE}, b"123", "end at byte 72, but the file has 71"),
    "overlap": ({"x": ONE, "y": ONE | {"data_offsets": [2, 6]}}, b"123456", "bytes 2 to 6"),
    "same bytes": ({"x": ONE, "y": ONE}, b"1234", "bytes 0 to 4 of the data, where 4"),
    "shape too large": ({"x": ONE | {"shape": [2**60]}}, b"1234", "which is not U8 of shape"),
    "shape overflows": ({"x": ONE | {"shape": [2**40, 2**40]}}, b"1234", "impossible shape"),
    "shape overflows to 4": ({"x": ONE | {"shape": [2**32 + 4, 2**32]}}, b"1234", "impossible shape"),
    "shape of no integer": ({"x": ONE | {"shape": [2**70]}}, b"1234", "impossible shape"),
    "negative shape": ({"x": ONE | {"shape": [-4]}}, b"1234", "impossible shape"),
    "shape of strings": ({"x": ONE | {"shape": ["4"]}}, b"1234", "impossible shape"),
    "shape of half bytes": ({"x": {"dtype": "F4", "shape": [3], "data_offsets": [0, 1]}}, b"1", "not F4 of shape"),
}  # fmt: skip


@pytest.mark.parametrize(("header", "data"), SOUND.values(), ids=SOUND)
def test_sound_headers_are_read_as_the_library_reads_them(path: Path, header: object, data: bytes) -> None:
    raw_file(path, header, data)
    assert library_reads(path)
    assert len(open_source(path)) == len(load_file(path))


@pytest.mark.parametrize(("header", "data", "why"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_headers_are_refused_as_the_library_refuses_them(
    path: Path, header: object, data: bytes, why: str
) -> None:
    raw_file(path, header, data)
    assert not library_reads(path)
    with pytest.raises(Refused, match=why) as refusal:
        open_source(path)
    assert str(refusal.value).startswith(f"{path}: ") and len(str(refusal.value)) < 500


@pytest.mark.parametrize("level", ["tensors", "fields", "metadata"])
def test_duplicate_keys_are_refused(path: Path, level: str) -> None:
    one = json.dumps(ONE)
    text = {
        "tensors": f'{{"x":{one},"x":{one}}}',
        "fields": f'{{"x":{one[:-1]},"dtype":"U8"}}}}',
        "metadata": f'{{"__metadata__":{{"a":"1","a":"2"}},"x":{one}}}',
    }[level]
    with pytest.raises(Refused, match="twice"):
        open_source(raw_file(path, text.encode()))


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 100_000_001, 10_000])
def test_a_lying_header_length_is_refused_without_allocating(path: Path, length: int) -> None:
    raw_file(path, {"x": ONE}, length=length)
    if length == 100_000_001:
        os.truncate(path, 2 * length)
    assert not library_reads(path)
    with pytest.raises(Refused, match="header should be"):
        open_source(path)


@pytest.mark.parametrize("size", range(8))
def test_files_shorter_than_a_header_length_are_refused(path: Path, size: int) -> None:
    path.write_bytes(bytes(size))
    with pytest.raises(Refused, match=f"longer than the whole file, which has {size} bytes"):
        open_source(path)


##### Shards and folders


def shards(folder: Path, weight_map: dict[str, str] | None = None) -> Path:
    save_file({"x.weight": noise(torch.uint8, 4)}, folder / "a.safetensors", {"list": "[1]", "map": '{"p": {"a": 1}}'})
    save_file({"x.scale": torch.ones(1)}, folder / "b.safetensors", {"list": "[2]", "map": '{"p": {"b": 2}}'})
    index = folder / "m.safetensors.index.json"
    listed = {"x.weight": "a.safetensors", "x.scale": "b.safetensors"} if weight_map is None else weight_map
    index.write_text(json.dumps({"weight_map": listed}))
    return index


def test_shards_are_one_source(tmp_path: Path) -> None:
    for path in (shards(tmp_path), tmp_path):
        source = open_source(path)
        assert {name: source.origin(name) for name in source} == {
            "x.weight": "a.safetensors",
            "x.scale": "b.safetensors",
        }
        assert json.loads(source.metadata["list"]) == [1, 2]
        assert json.loads(source.metadata["map"]) == {"p": {"a": 1, "b": 2}}
        assert float(source.tensor("x.scale")) == 1


INDEXES = {
    "missing": {"x.weight": "c.safetensors"},
    "not there": {"x.weight": "b.safetensors"},
    "outside": {"x.weight": "../a.safetensors"},
    "absolute": {"x.weight": "/a.safetensors"},
    "number": {"x.weight": 3},
    "not a shard": {"x.weight": "m.safetensors.index.json"},
}


@pytest.mark.parametrize("weight_map", INDEXES.values(), ids=INDEXES)
def test_wrong_indexes_are_refused(tmp_path: Path, weight_map: dict[str, str]) -> None:
    with pytest.raises(Refused, match=r"index\.json"):
        open_source(shards(tmp_path, weight_map))


def test_a_key_in_two_shards_is_refused(tmp_path: Path) -> None:
    index = shards(tmp_path)
    save_file({"x.weight": noise(torch.uint8, 4), "x.scale": torch.ones(1)}, tmp_path / "b.safetensors")
    with pytest.raises(Refused, match=r"both a\.safetensors and b\.safetensors"):
        open_source(index)


@pytest.mark.parametrize("component", ["transformer", "unet"])
def test_a_pipeline_is_its_transformer_or_unet(tmp_path: Path, component: str) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    for name in ("vae", component):
        (tmp_path / name).mkdir()
        save_file({name: torch.ones(1)}, tmp_path / name / "diffusion_pytorch_model.safetensors")
    (tmp_path / component / "config.json").write_text('{"a": 1}')
    source = open_source(tmp_path)
    assert list(source) == [component] and source.sidecars == {"config.json": {"a": 1}}


def test_a_folder_of_none_or_two_checkpoints_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no checkpoint"):
        open_source(tmp_path)
    for name in "ab":
        save_file({name: torch.ones(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(Refused, match=r"a\.safetensors, b\.safetensors"):
        open_source(tmp_path)


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1, "a": 2}', "\xff"])
@pytest.mark.parametrize("name", ["hf_quant_config.json", "quantization_config.json", "quanto_qmap.json"])
def test_malformed_sidecars_are_refused(path: Path, name: str, text: str) -> None:
    save_file({"x": torch.ones(1)}, path)
    (path.parent / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(Refused, match=name.replace(".", r"\.")):
        open_source(path)


UNSOUND = (
    '["quantization_config"]', '{"quantization_config": {}', '{"quantization_config": {"a": 1, "a": 2}}',
    '{"quantization_config": {}, "quantization_config": {}}', '{"quantization_config": {"scale": Infinity}}',
)  # fmt: skip


@pytest.mark.parametrize("text", UNSOUND)
def test_a_config_that_is_malformed_about_quantization_is_refused(path: Path, text: str) -> None:
    save_file({"x": torch.ones(1)}, path)
    (path.parent / "config.json").write_text(text)
    with pytest.raises(Refused, match=r"config\.json"):
        open_source(path)


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1, "a": 2}', '{"rope": Infinity}', "\xff"])
def test_a_config_that_is_malformed_elsewhere_is_ignored_and_told(path: Path, text: str) -> None:
    save_file({"x": torch.ones(1)}, path)
    (path.parent / "config.json").write_bytes(text.encode("latin-1"))
    (note,) = inspect_checkpoint(path).reasons
    assert note.startswith("config.json beside it is read for what it says of quantization alone")


def test_what_a_malformed_config_says_of_quantization_is_read(path: Path) -> None:
    save_file({"x": torch.ones(1)}, path)
    (path.parent / "config.json").write_text('{"rope": Infinity, "quantization_config": {"quant_method": "fp8"}}')
    assert open_source(path).sidecars["config.json"]["quantization_config"] == {"quant_method": "fp8"}


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "text.gguf").write_text("x")
    for name, why in {
        "none.safetensors": "no such file", "pipe.safetensors": "not a regular file", "text.gguf": "not read here",
        "\0.safetensors": "no such file", "x" * 300: "cannot be read: File name too long",
    }.items():  # fmt: skip
        with pytest.raises(Refused, match=why):
            open_source(tmp_path / name)


##### Scales in a file of their own


@pytest.mark.parametrize("key", ["x", "x.weight_scale"])
def test_angelslim_scales_are_merged(path: Path, key: str) -> None:
    save_file({"x.weight": noise(torch.uint8, 4)}, path)
    save_file({key: torch.tensor(2.0)}, path.parent / "fp8_scales.safetensors")
    for opened in (path, path.parent):
        source = open_source(opened)
        assert float(source.tensor("x.weight_scale")) == 2
        assert source["x.weight_scale"].name == "x.weight_scale"
        assert source.origin("x.weight_scale") == "fp8_scales.safetensors"


def test_a_repeated_scale_counts_once_and_another_one_is_refused(path: Path) -> None:
    save_file({"x.weight": noise(torch.uint8, 4), "x.weight_scale": torch.tensor(2.0)}, path)
    save_file({"x.weight_scale": torch.tensor(2.0)}, path.parent / "fp8_scales.safetensors")
    assert open_source(path).origin("x.weight_scale") == path.name
    save_file({"x.weight_scale": torch.tensor(3.0)}, path.parent / "fp8_scales.safetensors")
    with pytest.raises(Refused, match="stale"):
        open_source(path)


def test_scales_of_another_model_are_left_alone(path: Path) -> None:
    save_file({"x.weight": noise(torch.uint8, 4)}, path)
    save_file({"other.weight_scale": torch.tensor(2.0)}, path.parent / "fp8_scales.safetensors")
    assert list(open_source(path)) == ["x.weight"]


@pytest.mark.parametrize("value", [2.0, torch.tensor(2.0)], ids=["float", "tensor"])
def test_hunyuan_scales_are_merged(tmp_path: Path, value: object) -> None:
    torch.save({"module": {"x.weight": torch.ones(2, 2)}}, tmp_path / "m_fp8.pt")
    torch.save({"x": value}, tmp_path / "m_fp8_map.pt")
    source = open_source(tmp_path / "m_fp8.pt")
    assert set(source) == {"x.weight", "x.fp8_map_scale"} and float(source.tensor("x.fp8_map_scale")) == 2


##### Pickles


@pytest.mark.parametrize("top", ["module", "state_dict", "model", None], ids=str)
def test_pickles_of_tensors_are_read(tmp_path: Path, top: str | None) -> None:
    state = {"x": noise(torch.float8_e4m3fn, 5, 7), "y": noise(torch.float32, 4, 4).T}
    torch.save({top: state, "step": 3} if top else state, tmp_path / "m.pt")
    source = open_source(tmp_path / "m.pt")
    assert set(source) == set(state)
    assert all(same(source.tensor(name), tensor) for name, tensor in state.items())


class Dangerous:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> object:
        return Path.touch, (self.trace,)


PICKLES = {
    "code": (lambda trace: {"x": torch.ones(1), "y": Dangerous(trace)}, "more than tensors is pickled"),
    "list": (lambda trace: [torch.ones(1)], "holds a list"),
    "numbers": (lambda trace: {1: torch.ones(1)}, "holds a dict, not tensors by name"),
    "strings": (lambda trace: {"x": "y"}, "'x' is a str"),
    "view": (lambda trace: {"x": torch.ones(1).expand(2**40)}, "'x' claims .* bytes, more than are stored"),
    "sparse": (lambda trace: {"x": torch.eye(3).to_sparse()}, "more than tensors is pickled"),
}


@pytest.mark.parametrize(("contents", "why"), PICKLES.values(), ids=PICKLES)
def test_other_pickles_are_refused(tmp_path: Path, contents: object, why: str) -> None:
    torch.save(contents(tmp_path / "trace"), tmp_path / "m.pt")
    with pytest.raises(Refused, match=rf"m\.pt: {why}"):
        open_source(tmp_path / "m.pt")
    assert not (tmp_path / "trace").exists()


def test_bare_pickles_and_rubbish_are_refused(tmp_path: Path) -> None:
    for data in (pickle.dumps({"x": 1}), b"", b"PK\3\4", b"\x80\x04rubbish"):
        (tmp_path / "m.pt").write_bytes(data)
        with pytest.raises(Refused, match=r"m\.pt: is damaged, or not what torch\.save writes"):
            open_source(tmp_path / "m.pt")


##### What is told of where a file lies


def rubbish(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


REFUSED = {
    "m.safetensors": b"no header at all",
    "n.safetensors": b"\2\0\0\0\0\0\0\0{]",
    "a.safetensors.index.json": {"weight_map": {"x": "absent.safetensors"}},
    "b.safetensors.index.json": {"weight_map": {"x": "../elsewhere.safetensors"}},
    "c.safetensors.index.json": {"weight_map": []},
    "d.index.json": b"{]",
    "m.pt": b"rubbish",
    "m.txt": b"rubbish",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_can_be_told_without_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refused) as told:
        open_source(rubbish(tmp_path, name, REFUSED[name]))
    assert str(tmp_path) in str(told.value) and str(tmp_path) not in told.value.by_name
    assert told.value.by_name.startswith(f"{name}: ")


def test_a_verdict_calls_a_source_as_it_was_named(path: Path) -> None:
    save_file({"x.weight": torch.ones(4, 4), "y.weight": torch.ones(4, 4).to(torch.int8)}, path)
    told = inspect_checkpoint(open_source(path, "m")).to_json()
    assert not told["accepted"] and str(path.parent) not in json.dumps(told)
    assert inspect_checkpoint(open_source(path, "m")).sentence().startswith("m: ")
    assert inspect_checkpoint(path).sentence().startswith(f"{path}: ")


##### Tensors in memory


def test_tensors_are_read_from_where_they_lie_now(path: Path) -> None:
    save_file({"x": torch.ones(4), "y": torch.ones(3)}, path)
    source, mapped = open_source(path), {"x": torch.full((4,), 2.0)}
    source.exchange(StateDictSource(mapped).stored)
    assert source.tensor("x").data_ptr() == mapped["x"].data_ptr() and source.tensor("y").sum() == 3
    assert source["x"].shape == (4,) and source.files == {path}


@pytest.mark.parametrize("other", [torch.ones(5), torch.ones(4, dtype=torch.int32)], ids=["shape", "dtype"])
def test_another_tensor_of_the_same_name_is_refused(path: Path, other: Tensor) -> None:
    save_file({"w": torch.ones(2), "x": torch.ones(4)}, path)
    source = open_source(path)
    for wrong in ({"w": torch.zeros(2), "x": other}, {"w": torch.zeros(2), "z": torch.ones(1)}):
        with pytest.raises(Refused, match="another tensor now"):
            source.exchange(StateDictSource(wrong).stored)
    assert source.tensor("w").sum() == 2


def test_loaded_tensors_are_handed_out_as_they_are() -> None:
    state = {"x": noise(torch.float8_e5m2, 5, 7), "y": torch.empty(1000, 1000, device="meta")}
    source = StateDictSource(state, {"a": "b"})
    assert source["x"].dtype == "F8_E5M2" and source["y"].nbytes == 4_000_000 and source.path is None
    assert source.tensor("x").data_ptr() == state["x"].data_ptr()
    assert same(source.piece("x", 3, 9), state["x"].reshape(-1)[3:9])
