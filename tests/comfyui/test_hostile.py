"""A running server that is asked for what it must not tell or do: the panel's routes, and inputs of nodes by API."""

from __future__ import annotations

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from server import Server
from workflows import DIGITS

ROUTES = "/scaled_fp8/v1"
LTX = "diffusion_models/server-ltx.safetensors"
BF16 = "digits-flux2-bf16.safetensors"
SECRET = "SECRET-PASSWORD"
# what a page may ask /inspect for
FILES = {
    "nothing": "", "absolute": "/etc/passwd", "above": "../../../../etc/passwd",
    "out": "diffusion_models/../../secret.txt", "NUL": f"{LTX}\0.txt",
    "turned slashes": "diffusion_models\\..\\..\\secret.txt", "no folder": "server-ltx.safetensors",
    "a folder": "diffusion_models/", "another folder": "output/x.safetensors", "home": "~/secret.txt",
    "long": "diffusion_models/" + "x" * 7000, "letters": "diffusion_models/\u202e\x1b[2J\ud7ff.safetensors",
    "markup": "<img src=x onerror=alert(1)>", "address": "http://127.0.0.1/x.safetensors",
    "line": "a\r\nSet-Cookie: b=c",
    "dots": "diffusion_models/./server-ltx.safetensors", "twice": "diffusion_models//server-ltx.safetensors",
}  # fmt: skip
COMPUTE = ("magic", "x" * 7000, "\x1b]0;x\x07", "<b>", "__class__", "auto\0")


@dataclass(frozen=True)
class Answer:
    status: int
    kind: str
    text: str


def ask(server: Server, path: str, method: str = "GET", body: bytes | None = None) -> Answer:
    """Sent as it is: urllib would tidy a path up."""
    line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
    line.request(method, path, body, {"Content-Type": "application/json"})
    answer = line.getresponse()
    return Answer(answer.status, answer.headers.get_content_type(), answer.read().decode())


def told(answer: Answer) -> str:
    """The sentence of a refusal."""
    assert answer.status == 404 and answer.kind == "application/json", answer
    (sentence,) = json.loads(answer.text).values()
    assert sentence.endswith(".") and sentence.isprintable() and len(sentence) < 600
    return sentence


@pytest.fixture(scope="module", autouse=True)
def secret(base: Path) -> None:
    (base / "secret.txt").write_text(SECRET * 100)


@pytest.mark.parametrize("kind", FILES)
def test_what_is_no_model_is_a_sentence(server, base, kind):
    sentence = told(ask(server, f"{ROUTES}/inspect?file={quote(FILES[kind], safe='')}"))
    assert str(base) not in sentence and SECRET not in sentence


@pytest.mark.parametrize("raw", ["file=%ff%fe", "file=..%252f..%252fsecret.txt", "file[]=a", "FILE=a", "file=&file=a"])
def test_what_is_no_question_is_a_sentence(server, raw):
    told(ask(server, f"{ROUTES}/inspect?{raw}"))


@pytest.mark.parametrize("compute", COMPUTE, ids=range(len(COMPUTE)))
def test_an_unknown_way_to_compute_is_a_sentence(server, compute):
    assert "compute" in told(ask(server, f"{ROUTES}/inspect?file={LTX}&compute={quote(compute)}"))


@pytest.mark.parametrize("run", ["", "0", "../..", "__proto__", "x" * 7000, "\0", "-1"])
def test_a_run_that_was_none_is_a_sentence(server, run):
    told(ask(server, f"{ROUTES}/report?run={quote(run, safe='')}"))


@pytest.mark.parametrize("route", ["inspect", "doctor", "report"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_routes_change_nothing(server, route, method):
    assert ask(server, f"{ROUTES}/{route}?file={LTX}", method, b"{}").status == 405


def test_a_crowd_leaves_the_server_its_time(server):
    """Twenty inspections at once, and the server still answers others."""
    with ThreadPoolExecutor(21) as pool:
        asked = [pool.submit(ask, server, f"{ROUTES}/inspect?file={LTX}&layers=1") for _ in range(20)]
        assert server.ask("/system_stats")[0] == 200
        assert {found.result().status for found in asked} <= {200, 503}
    assert json.loads(ask(server, f"{ROUTES}/inspect?file={LTX}").text)["accepted"]


##### Inputs of nodes


NAN, HUGE = float("nan"), "9" * 400
CALIBRATE = {"name": "hostile", "memory_gb": 8.0}
QUANTIZE = {"method": "fp8-dynamic", "granularity": "per-tensor", "keep": ""}
COMPARE = {
    "model_a": ["1", 0], "model_b": ["1", 0], "positive": ["3", 0], "negative": ["3", 0], "latent": ["4", 0], "seed": 0,
    "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "images": 1, "attribute": "auto",
}  # fmt: skip
# kind -> node, its inputs; the first node loads a model, the third makes a text, or a conditioning for comparisons
INPUTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"calibration {name[:9]!r}": ("CalibrateModel", CALIBRATE | {"name": name}) for name in (
        "../../../evil", "/tmp/evil", "a\0b", "x" * 300, "", ".", "a/b", "a\\b", "\x1b[2J", "NUL\n",
    )},
    "memory NaN": ("CalibrateModel", CALIBRATE | {"memory_gb": NAN}),
    **{f"keep {keep[:9]!r}": ("QuantizeModel", QUANTIZE | {"keep": keep}) for keep in (
        "(", "a{99999999999999999999}", "(" * 3000 + ")" * 3000, "(?P<x>a)(?P=x)", "x" * 100_000, "[\x1b",
    )},
    **{f"budget {budget[:9]!r}": ("QuantizeModel", QUANTIZE | {"method": "budget", "budget": budget}) for budget in (
        "", "NaN bits", "1e400 GB", HUGE + " bits", "-1 GB", "7 bits; rm", "error inf", "\x1b[2J", "x" * 100_000,
    )},
    **{f"formats {formats[:9]!r}": (
        "QuantizeModel", QUANTIZE | {"method": "budget", "budget": "7 bits", "formats": formats}
    ) for formats in ("../x", "float9", "\x1b")},
    **{f"prefix {prefix[:9]!r}": ("SaveQuantizedModel", {"filename_prefix": prefix}) for prefix in (
        "../../../../evil", "/evil/evil", "a\0b", "x" * 5000,
    )},
    **{f"layers {layers[:9]!r}": ("ScaledLinearPatch", {
        "compute": "auto", "activation_scale": "dynamic", "layers": layers, "scales_from": "none",
    }) for layers in ("(", r"^(\w+\.?)+!$" * 999)},
    **{f"report {report[:12]!r}": ("RequireQuality", {"report": report, "metric": "psnr", "limit": 1.0}) for report in (
        "", "figures: " + "[" * 200_000, "figures: " + '{"a":' * 100_000, f'figures: {{"psnr": {HUGE}}}',
        'figures: {"psnr": "\x1b"}', "figures: null", "figures: {" + '"psnr": 1,' * 9 + "}", "figures: " + "9" * 9999,
    )},
    "limit NaN": ("RequireQuality", {"report": 'figures: {"psnr": 1}', "metric": "psnr", "limit": NAN}),
}  # fmt: skip


def prompt_of(kind: str, inputs: dict[str, Any]) -> dict[str, Any]:
    nodes = {"1": ("UNETLoader", {"unet_name": BF16, "weight_dtype": "default"})}
    if kind == "RequireQuality":
        nodes = {"3": ("PrimitiveString", {"value": inputs["report"]})}
        inputs = inputs | {"report": ["3", 0]}
    else:
        inputs = {"model": ["1", 0]} | inputs
    nodes["2"] = (kind, inputs)
    if kind in ("CalibrateModel", "QuantizeModel", "ScaledLinearPatch"):
        # an output, or nothing would run
        nodes["5"] = ("FP8Report", {"model": ["2", 0]})
    return {number: {"class_type": name, "inputs": given} for number, (name, given) in nodes.items()}


def files_of(base: Path) -> set[Path]:
    return {path for path in base.parent.rglob("*") if path.is_file() and not {"user", "temp"} & {*path.parts}}


@pytest.mark.parametrize("kind", INPUTS)
def test_a_hostile_input_is_a_sentence_and_writes_nothing(server, base, kind):
    before = files_of(base)
    status, answer = server.ask("/prompt", {"prompt": prompt_of(*INPUTS[kind])})
    if status == 200:
        history = server.over(answer["prompt_id"])
        ((_, error),) = [m for m in history["status"]["messages"] if m[0] == "execution_error"]
        message = error["exception_message"].strip()
        own = error["exception_type"].endswith("Refused")
        # what core refuses by itself: names of files out of its folders
        assert own or INPUTS[kind][0] == "SaveQuantizedModel", error
        assert not own or message.isprintable() and len(message) < 800 and message.endswith("."), message
    else:
        assert status == 400 and answer["node_errors"], answer
    assert {path for path in files_of(base) - before if path.suffix != ".txt"} == set()
    assert server.ask("/system_stats")[0] == 200


@pytest.mark.parametrize("changed", [{"cfg": NAN}, {"seed": 2**64 - 1, "images": 2}], ids=["cfg NaN", "last seed"])
def test_a_comparison_of_odd_numbers_ends(server, changed):
    """NaN makes latents of NaN, which is said; after the last seed comes the first."""
    nodes = {
        "1": ("UNETLoader", {"unet_name": BF16, "weight_dtype": "default"}),
        "2": ("CompareModels", COMPARE | changed),
        "3": ("DigitsConditioning", {"digits": DIGITS[:1]}),
        "4": ("EmptyFlux2LatentImage", {"width": 64, "height": 64, "batch_size": 1}),
    }
    prompt = {number: {"class_type": name, "inputs": given} for number, (name, given) in nodes.items()}
    history = server.run(prompt)
    errors = [m[1] for m in history["status"]["messages"] if m[0] == "execution_error"]
    if errors:
        assert errors[0]["exception_type"].endswith("Refused"), errors
    else:
        (text,) = history["outputs"]["2"]["text"]
        assert ("relative: nan" in text) == ("cfg" in changed), text
        assert ("relative: identical" in text) == ("seed" in changed), text


def test_nothing_was_printed_that_a_terminal_obeys(server):
    log = server.log.read_bytes()
    assert b"\x1b]0;" not in log and b"\x1b[2J" not in log and "\u202e".encode() not in log
    assert SECRET.encode() not in log


def test_progress_that_somebody_edited_is_measured_anew(contract):
    believed = contract("kept_files")
    assert believed.pop("sound") == {"a": 0.5}
    assert len(believed) == 11 and not any(believed.values()), believed
