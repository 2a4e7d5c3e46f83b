"""The editor in a real browser against a real server: both renderers, the pinned and the newest frontend."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest
import torch
from browser import CHROMIUM, NODE, absent, node_modules
from safetensors.torch import load_file, save_file
from scaled_fp8.quant.quality.sqnr import colour_of
from server import started
from workflows import EXAMPLES

HERE = Path(__file__).parent
BROKEN = "server-broken.safetensors"


pytestmark = pytest.mark.skipif(absent() is not None, reason=str(absent()))


@pytest.fixture(scope="module")
def playwright(tmp_path_factory) -> Path:
    """A node_modules folder with playwright-core and axe-core."""
    return node_modules(tmp_path_factory.mktemp("npm"), "playwright-core", "axe-core")


@pytest.fixture(scope="module", params=["pinned", "newest"])
def frontend(request, tmp_path_factory) -> list[str]:
    """Arguments that give the server its frontend: its own, or the newest that the package index has."""
    if request.param == "pinned":
        return []
    folder = tmp_path_factory.mktemp("frontend")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, "comfyui-frontend-package"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip(f"NO BROWSER TESTS on the newest frontend: {done.stderr[-300:]}")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    return ["--front-end-root", str(folder / "comfyui_frontend_package" / "static")]


@pytest.fixture(scope="module")
def server(base, contract, clip_l, frontend, tmp_path_factory):
    contract("files")
    models = base / "models" / "diffusion_models"
    write_broken(models / "server-ltx.safetensors", models / BROKEN)
    link = models / "outside.safetensors"
    if not link.is_symlink():
        link.symlink_to(base / "input" / "digits-conditioning.safetensors")
    with started(base, tmp_path_factory.mktemp("server") / "log.txt", *frontend) as server:
        yield server


def write_broken(source: Path, target: Path) -> None:
    """The same file with one scale that is not a number."""
    tensors = load_file(source)
    first = next(name for name in sorted(tensors) if name.endswith(".weight_scale"))
    tensors[first] = torch.full_like(tensors[first], float("nan"))
    save_file(tensors, target, {"format": "pt"})


@pytest.fixture(scope="module", params=[False, True], ids=["classic", "nodes-2"])
def seen(request, server, frontend, playwright, tmp_path_factory, figure, base) -> dict:
    """What a person would have seen in one session; the scripts are in browser/."""
    folder = tmp_path_factory.mktemp("session")
    asked = {
        "url": f"http://127.0.0.1:{server.port}", "vue": request.param, "broken": f"diffusion_models/{BROKEN}",
        "playwright": str(playwright), "chromium": CHROMIUM, "templates": EXAMPLES,
        "shots": os.environ.get("SCREENSHOTS"),
        "screens": None if frontend or request.param else os.environ.get("SCALED_FP8_SCREENS"),
    }  # fmt: skip
    (folder / "request.json").write_text(json.dumps(asked))
    command = [NODE, str(HERE / "browser" / "session.mjs"), str(folder / "request.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr + server.log.read_text()[-2000:]
    found = json.loads(done.stdout)
    version = "newest" if frontend else "pinned"
    figure(
        f"browser, {version} frontend, {'Nodes 2.0' if request.param else 'classic'}: verdict after "
        f"{found['first']['ms']:.0f} ms, 2,000 layers: first paint {found['paint']:.0f} ms, longest task while "
        f"scrolling {min(found['scroll']['longest']):.0f} ms (best of three passes), coloured anew in "
        f"{min(pass_['ms'] for pass_ in found['drawn']):.0f} ms"
    )
    reports = (json.loads(path.read_text()) for path in (base / "output" / "scaled_fp8").glob("report_*.json"))
    found["python"] = next(report for report in reports if report["part"] == "MODEL" and report["calls"])
    return found


def texts(lines: list[dict]) -> str:
    return "\n".join(line["text"] for line in lines)


def test_a_chosen_file_shows_its_verdict(seen):
    said = texts(seen["accepted"]["lines"])
    assert "14 layers" in said and "per-tensor" in said and "LTX" in said and "no marker" in said
    assert "on CPU" in said and "MB" in said
    assert not [line for line in seen["accepted"]["lines"] if "sfp8-bad" in line["kind"]]


def test_a_broken_file_shows_its_refusal_in_red(seen, server):
    (line,) = seen["refused"]["lines"]
    assert line["kind"] == "sfp8-bad"
    answer = server.get(f"/scaled_fp8/v1/inspect?file=diffusion_models/{BROKEN}")
    assert line["text"] == answer["sentence"] and BROKEN in line["text"]
    assert is_red(line["colour"])


def test_the_prompt_is_the_same_without_the_pack(seen):
    assert seen["prompt"]["output"] == seen["bare"]["output"]
    assert without_size(seen["prompt"]["workflow"]) == without_size(seen["bare"]["workflow"])


def test_the_panel_changes_nothing_in_the_graph(seen):
    assert seen["promptAfter"]["output"] == seen["promptLast"]["output"] == seen["prompt"]["output"]
    assert seen["promptAfter"]["workflow"]["nodes"] == seen["prompt"]["workflow"]["nodes"]


def without_size(workflow: dict) -> list[dict]:
    """The box makes a node higher, nothing else may differ."""
    return [{key: value for key, value in node.items() if key != "size"} for node in workflow["nodes"]]


def test_the_panel_shows_every_layer_once_with_the_kernel_that_ran(seen):
    assert seen["ended"] == "success"
    shown = {row["layer"]: (row["kernel"], row["calls"]) for row in seen["rows"]}
    ran = {row["layer"]: (max(row["ran"], key=row["ran"].get), row["calls"]) for row in seen["report"]["layers"]}
    assert len(shown) == len(seen["rows"]) == 14
    assert shown == ran
    assert all(calls == 2 for _, calls in shown.values())


def test_the_panel_equals_the_report_of_the_node(seen):
    kernels = {row["layer"]: row["kernel"] for row in seen["python"]["layers"]}
    assert kernels == {row["layer"]: row["kernel"] for row in seen["rows"]}


def test_the_node_says_what_ran(seen):
    assert seen["ran"][0]["kind"] == "sfp8-ran"
    assert "28 calls in 14 layers" in seen["ran"][0]["text"]


def test_search_and_keyboard(seen):
    assert seen["searched"] == [f"single_blocks.{block}.linear2" for block in range(3)]
    assert seen["byArrow"] == "double_blocks.0.img_attn.qkv"
    assert seen["lastByKey"] == seen["rows"][-1]["layer"]


def test_the_panel_keeps_its_state_when_closed(seen):
    assert seen["state"] == seen["stateAgain"] == ["single linear2", "scale", "", "slow", "3 of 14 layers", "1 MODEL"]


def test_the_panel_shows_the_devices_kernels(seen, server):
    assert seen["doctor"] == [finding["kernel"] for finding in server.get("/scaled_fp8/v1/doctor")["kernels"]]


def test_exports(seen):
    assert {row["layer"]: row for row in seen["json"]} == {row["layer"]: row for row in seen["report"]["layers"]}
    lines = list(csv.DictReader(io.StringIO(seen["csv"])))
    expected = [row for row in seen["report"]["layers"] if row["layer"].startswith("double")]
    assert {line["layer"] for line in lines} == {row["layer"] for row in expected} and len(lines) == 8
    assert {line["layer"]: line["kernel"] for line in lines} == {row["layer"]: row["kernel"] for row in expected}
    assert seen["png"]["head"] == "PNG" and seen["png"]["size"] > 3000


def test_node_menus(seen):
    entries = ["Inspect this model", "Show in Scaled FP8 panel"]
    assert seen["menus"] == {"core": entries, "loader": entries, "report": []}
    assert seen["inspected"] == "No quantized layers: loads as it is."


def test_an_inspected_file_shows_what_each_method_would_need(seen, server, base):
    file = "diffusion_models/digits-flux2-bf16.safetensors"
    told = server.get(f"/scaled_fp8/v1/inspect?file={file}")
    (rows,) = told["needs"].values()
    # as it is, it takes at least its own bytes; in four bits fewer
    peaks = {row["method"]: row["peak"] for row in rows}
    assert peaks["none"] > (base / "models" / file).stat().st_size * 0.99
    assert peaks["int4"] < peaks["none"] < told["free"]
    assert seen["needs"] == [
        [name, f"{peak / 1e6:{'.0f' if peak >= 1e8 else '.1f'}} MB", "fits"] for name, peak in peaks.items()
    ]


def test_a_reloaded_workflow_is_as_it_was(seen):
    assert "LTX" in texts(seen["reloaded"])
    widgets = [
        [node.get("widgets_values") or [] for node in seen[name]["nodes"]] for name in ("workflow", "workflowAgain")
    ]
    assert widgets[0] == widgets[1]
    assert seen["workflow"]["nodes"][0]["widgets_values"] == [
        "diffusion_models/server-ltx.safetensors",
        "auto",
        "dynamic",
    ]
    sizes = [seen[name]["nodes"][0]["size"][1] for name in ("workflow", "workflowAgain")]
    assert sizes[0] == sizes[1]


def test_every_layer_of_a_large_model_is_painted_but_few_are_in_the_page(seen):
    assert 10 < seen["scroll"]["rows"] < 60
    assert seen["colourings"] == ["kernel", "granularity", "scale", "error"]


def test_each_of_2000_layers_is_drawn_once(seen):
    """The time is printed as a figure: here it is told that no pass draws anything twice."""
    assert [(one["name"], one["cells"]) for one in seen["drawn"]] == [(name, 2000) for name in ("kernel", "error") * 2]


def rgb(colour: str) -> tuple[float, float, float]:
    """Red, green and blue of a computed colour, which may be of 255 or of 1."""
    red, green, blue = (float(part) for part in re.findall(r"[\d.]+", colour.partition("(")[2])[:3])
    return red, green, blue


def is_red(colour: str) -> bool:
    red, green, blue = rgb(colour)
    return red > 1.5 * max(green, blue)


def test_layers_are_coloured_by_the_error_that_a_node_measured(seen):
    found = seen["measured"]
    assert found["ended"] == "success"
    layers = sorted(row["layer"] for row in seen["rows"])
    # the double measures in this order: 20 dB, noise, identical, 23 dB and so on, the last one not
    assert found["rows"] == [layers[1], layers[0], *layers[3:-1], layers[2], layers[-1]]
    assert "20.0 dB" in found["legend"] and f"{20 + len(layers) - 2}.0 dB" in found["legend"]
    for entry in ("identical: 1", "noise: 1", "not measured: 1"):
        assert entry in found["legend"]


def test_cells_have_the_colours_of_the_servers_picture(seen):
    ends = (20.0, 20.0 + len(seen["rows"]) - 2)
    wanted = {colour_of(error, ends) for error in (ends[0], ends[1], 25.0, -48.0)}
    painted = {"#" + bytes(map(int, colour.split(","))).hex() for colour in seen["measured"]["cells"]}
    assert wanted <= painted


def test_noise_is_red_and_its_layers_are_named(seen):
    found, layers = seen["measured"], sorted(row["layer"] for row in seen["rows"])
    assert layers[1] in found["noise"]["text"] and layers[0] not in found["noise"]["text"]
    assert "1 of 13 layers are noise" in found["noise"]["text"] and is_red(found["noise"]["colour"])
    assert found["detail"]["text"] == "noise, -48.0 dB" and is_red(found["detail"]["colour"])


def test_a_quantized_vae_is_in_the_panel_and_its_node_says_what_it_is(seen):
    assert any(name.startswith("QuantizeVAE · VAE #") for name in seen["measured"]["runs"])
    assert any(box.startswith("Ready: ") and "upcast" in box for box in seen["measured"]["boxes"])


def test_the_report_opens_in_a_frame_that_has_nothing_of_the_editor(seen):
    page = seen["measured"]["page"]
    assert (page["title"], page["done"], page["left"]) == ("A against B", "alone", None)
    assert page["saved"] == "digits-report.html"


def test_two_models_are_compared_in_the_editor(seen):
    """The panel's errors are those of the report that it opens, and every layer that is FP8 has one."""
    found = seen["compared"]
    assert found["ended"] == "success"
    shown = {layer: float(error) for layer, error in found["layers"] if error is not None}
    assert shown == {layer["name"]: float(layer["sqnr_db"]) for layer in found["json"]["layers"]}
    scaled = {row["layer"] for row in seen["rows"]}
    # FP8 rounds a layer to about 30 dB; the layers that are as they were are identical
    assert {layer for layer, error in shown.items() if 20 < error < 45} == scaled
    assert {error for layer, error in shown.items() if layer not in scaled} == {float("inf")}
    assert "PSNR" in found["page"] and "server-ltx" in found["page"]


def test_a_plans_curve_is_in_the_panel(seen):
    found = seen["budgeted"]
    assert found["ended"] == "success"
    for name in ("nvfp4: ", "int4: ", "int8: ", "6 bits: "):
        assert name in found["said"]
    mixed = sorted((dot["x"], dot["y"]) for dot in found["dots"] if "sfp8-mixed" in dot["kind"])
    # the more bytes, the less error
    assert len(mixed) > 3 and [y for _, y in mixed] == sorted((y for _, y in mixed), reverse=True)
    (chosen,) = (dot for dot in found["dots"] if "sfp8-chosen" in dot["kind"])
    worse = [dot for dot in found["dots"] if "sfp8-uniform" in dot["kind"] and dot["x"] > chosen["x"]]
    assert all(0 <= dot[axis] <= 100 for dot in found["dots"] for axis in "xy")
    assert "6 bits" in chosen["title"] and worse


@pytest.mark.parametrize("where", ["dark", "light", "errors", "page"])
def test_axe_finds_nothing_wrong(seen, where):
    """Contrast, names and roles, by WCAG 2.1 A and AA."""
    found = {"dark": seen["axe"], "light": seen["axeLight"], "errors": seen["measured"]["axe"],
             "page": seen["measured"]["page"]["axe"]}[where]  # fmt: skip
    assert found["violations"] == []
    # the header of the page's dialog alone has no text that axe could compare with what lies behind
    assert {"button-name", *(() if where == "page" else ("color-contrast",))} <= set(found["passed"])


def test_a_page_loaded_again_keeps_what_the_panel_shows(seen):
    kept = seen["kept"]
    assert kept["before"] == kept["after"]
    assert kept["before"][:2] == ["blocks", "error"] and kept["before"][3] == "error"
    assert kept["page"] == 1


def test_a_workflow_saved_when_the_report_took_a_model_only(seen):
    """Its link stays, and its node takes a CLIP and a VAE now, and nothing else."""
    assert seen["older"]["output"] == seen["prompt"]["output"]
    assert seen["older"]["accepts"] == [True, True, True, False]


def test_help_opens_from_the_node_in_both_languages(seen):
    assert seen["help"]["en"]["path"].endswith("/docs/LoadFP8Checkpoint/en.md")
    assert seen["help"]["zh"]["path"].endswith("/docs/LoadFP8Checkpoint/zh.md")
    assert (seen["help"]["en"]["title"], seen["help"]["zh"]["title"]) == ("# Load FP8 Checkpoint", "# 加载 FP8 检查点")


def test_everything_is_in_chinese_too(seen):
    assert seen["chinese"]["title"] == "加载 FP8 检查点"
    assert seen["chinese"]["verdict"].startswith("14 层")
    assert seen["chinese"]["line"].startswith("已运行")


@pytest.mark.parametrize("name", EXAMPLES)
def test_template_opens(seen, name):
    assert seen["templates"][name] == {"unknown": [], "overlaps": []}


def test_nothing_of_this_pack_is_on_the_console(seen):
    assert seen["noise"] == []


NAMES = {
    "traversal": "diffusion_models/../../input/digits-conditioning.safetensors",
    "absolute": "/etc/passwd",
    "another folder": "loras/any.safetensors",
    "absent": "diffusion_models/absent.safetensors",
    "too long": "diffusion_models/" + "a" * 5000,
    "nothing": "",
    "folder": "diffusion_models/",
    "null byte": "diffusion_models/server-ltx.safetensors%00",
}


@pytest.mark.parametrize("name", NAMES)
def test_route_takes_listed_names_only(server, name):
    status, answer = server.ask(f"/scaled_fp8/v1/inspect?file={NAMES[name]}")
    assert status == 404
    assert list(answer) == ["error"] and "\n" not in answer["error"] and answer["error"].endswith(".")


def test_route_takes_a_link_that_comfyui_lists(server):
    status, answer = server.ask("/scaled_fp8/v1/inspect?file=diffusion_models/outside.safetensors")
    assert status == 200
    assert "sentence" in answer


def test_routes_only_read(server):
    for route in ("inspect", "report", "doctor"):
        with pytest.raises(urllib.error.HTTPError, match="405"):
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/scaled_fp8/v1/{route}", b"{}", timeout=30)


def test_a_changed_file_is_inspected_anew(server, base):
    models = base / "models" / "diffusion_models"
    target = models / "changing.safetensors"
    shutil.copy(models / "server-ltx.safetensors", target)
    ask = "/scaled_fp8/v1/inspect?file=diffusion_models/changing.safetensors"
    assert server.get(ask)["accepted"] is True
    shutil.copy(models / BROKEN, target)
    os.utime(target, ns=(1, 1))
    assert server.get(ask)["accepted"] is False
    target.unlink()


def test_compute_decides_what_is_planned(server):
    ask = "/scaled_fp8/v1/inspect?file=diffusion_models/server-ltx.safetensors&compute="
    assert all(kernel.startswith("upcast") for kernel in server.get(ask + "upcast")["plan"])
    assert all(kernel.startswith("scaled_mm") for kernel in server.get(ask + "scaled_mm")["plan"])
    assert server.ask(ask + "magic")[0] == 404


def test_english_strings_are_those_of_the_schemas(server):
    """locales/en/nodeDefs.json is what translators read; the schemas are what is shown."""
    path = HERE.parents[1] / "locales" / "en" / "nodeDefs.json"
    for name, said in json.loads(path.read_text(encoding="utf-8")).items():
        info = server.get(f"/object_info/{name}")[name]
        inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
        assert (said["display_name"], said["description"]) == (info["display_name"], info["description"])
        assert {key: one.get("tooltip") for key, one in said["inputs"].items()} == {
            key: (spec[1] if len(spec) > 1 else {}).get("tooltip") for key, spec in inputs.items()
        }, name
        assert [one["name"] for one in said["outputs"].values()] == info["output_name"]
