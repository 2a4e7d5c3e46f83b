"""A real server with this pack in custom_nodes: its node list, the example workflows headless, its errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from workflows import DIGITS, EXAMPLES, example, on_digits

NODES = (
    "LoadFP8Checkpoint",
    "LoadFP8TextEncoder",
    "ScaledLinearPatch",
    "QuantizeModel",
    "QuantizeTextEncoder",
    "QuantizeVAE",
    "SaveQuantizedModel",
    "FP8Report",
    "CalibrateModel",
    "SaveCalibration",
    "CompareModels",
    "RequireQuality",
)


@pytest.fixture(scope="module")
def comfy(server, tmp_path_factory):
    """Runs comfy-cli against the server in a home of its own; the finished process."""
    home = tmp_path_factory.mktemp("home")
    env = os.environ | {"HOME": str(home), "COMFY_NO_WATCH": "1", "COMFY_CLI_NO_REMOTE_REFRESH": "1"}
    cli = Path(sys.executable).with_name("comfy")
    if not cli.exists():
        pytest.skip(f"no comfy-cli at {cli}")

    def run(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run([str(cli), *words], env=env, cwd=home, capture_output=True, text=True, timeout=1200)

    run("--skip-prompt", "tracking", "disable")
    return run


@pytest.fixture(scope="module")
def reference(server, base) -> torch.Tensor:
    """Latents of the bf16 model from the same server, through core's own nodes alone."""
    prompt = {
        "1": node("UNETLoader", unet_name="digits-flux2-bf16.safetensors", weight_dtype="default"),
        "2": node("DigitsConditioning", digits=DIGITS),
        "3": node("EmptyFlux2LatentImage", width=64, height=64, batch_size=len(DIGITS)),
        "4": node(
            "KSampler", model=["1", 0], positive=["2", 0], negative=["2", 0], latent_image=["3", 0], seed=7, steps=12,
            cfg=1.0, sampler_name="euler", scheduler="simple", denoise=1.0,
        ),
        "5": node("SaveLatentNumbers", latent=["4", 0], name="reference"),
    }  # fmt: skip
    history = server.run(prompt)
    assert history["status"]["status_str"] == "success", history["status"]
    return latents(base, "reference")


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}}


def latents(base: Path, name: str) -> torch.Tensor:
    return load_file(base / "output" / f"{name}.safetensors")["samples"]


@pytest.mark.parametrize("name", NODES)
def test_node_is_listed_with_tooltips(server, name):
    info = server.get(f"/object_info/{name}")[name]
    assert info["display_name"] and info["description"] and info["category"] and info["search_aliases"]
    inputs = {**info["input"]["required"], **info["input"].get("optional", {})}
    assert all(spec[1].get("tooltip") for spec in inputs.values() if spec[0] != "MODEL")


def test_every_node_is_in_an_example():
    used = {node["type"] for name in EXAMPLES for node in example(name)["nodes"]}
    assert used.issuperset(NODES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_is_offered_as_template(server, name):
    assert name in server.get("/workflow_templates")["scaled-fp8"]
    assert server.get(f"/api/workflow_templates/scaled-fp8/{name}.json") == example(name)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_is_consistent(name):
    """Links agree at both ends, as the frontend expects them."""
    workflow = example(name)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for link, origin, out, target, slot, kind in workflow["links"]:
        assert link in nodes[origin]["outputs"][out]["links"]
        assert nodes[target]["inputs"][slot]["link"] == link
        assert kind == nodes[origin]["outputs"][out]["type"]
    assert any(node["type"] in ("Note", "MarkdownNote") for node in nodes.values())


SAMPLED = [name for name in EXAMPLES if any(node["type"] == "KSampler" for node in example(name)["nodes"])]


@pytest.mark.parametrize("name", SAMPLED)
def test_example_runs_headless(name, comfy, server, base, reference, figure, tmp_path):
    file = tmp_path / f"{name}.json"
    file.write_text(json.dumps(on_digits(example(name), name)))
    done = comfy("run", "--workflow", str(file), "--wait", "--host", "127.0.0.1", "--port", str(server.port))
    assert done.returncode == 0, done.stdout + done.stderr + server.log.read_text()[-3000:]
    got = latents(base, name)
    error = ((got - reference).norm() / reference.norm()).item()
    figure(f"comfy run {name}.json: latents {error:.4f} from bf16")
    assert error <= 0.03
    prefix = next(n["widgets_values"][0] for n in example(name)["nodes"] if n["type"] == "SaveImage")
    pictures = sorted((base / "output").glob(f"{prefix}_*.png"))
    assert len(pictures) == len(DIGITS)
    assert all(picture.read_bytes()[16:24] == bytes([0, 0, 0, 64] * 2) for picture in pictures)


@pytest.mark.parametrize(("limit", "code"), [(0.05, 0), (0.001, 1)])
def test_a_comparison_is_a_test(limit, code, comfy, server, tmp_path):
    """The FP8 file holds the limit that the example sets, and misses a stricter one: exit codes for a CI."""
    workflow = on_digits(example("compare_models"), "")
    gate = next(node for node in workflow["nodes"] if node["type"] == "RequireQuality")
    gate["widgets_values"] = ["latent_error", limit]
    file = tmp_path / "compare_models.json"
    file.write_text(json.dumps(workflow))
    where = ("--host", "127.0.0.1", "--port", str(server.port), "--timeout", "1000")
    done = comfy("run", "--workflow", str(file), "--wait", *where)
    told = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == code, told + server.log.read_text()[-3000:]
    assert code == 0 or "has to be at most 0.001" in told


def test_comfy_cli_validates_an_api_prompt(comfy, server, tmp_path):
    file = tmp_path / "prompt.json"
    where = ("--host", "127.0.0.1", "--port", str(server.port))
    loader = node(
        "LoadFP8Checkpoint",
        checkpoint="diffusion_models/server-ltx.safetensors",
        compute="auto",
        activation_scale="dynamic",
    )
    file.write_text(json.dumps({"1": loader, "2": node("PreviewAny", source=["1", 3])}))
    assert comfy("workflow", "validate", "--workflow", str(file), *where).returncode == 0
    loader["inputs"]["compute"] = "magic"
    file.write_text(json.dumps({"1": loader, "2": node("PreviewAny", source=["1", 3])}))
    assert comfy("workflow", "validate", "--workflow", str(file), *where).returncode == 1


def test_a_wrong_choice_is_turned_down_before_anything_runs(server):
    loader = node("LoadFP8Checkpoint", checkpoint="diffusion_models/no.safetensors", compute="x", activation_scale="y")
    status, answer = server.ask("/prompt", {"prompt": {"1": loader, "2": node("PreviewAny", source=["1", 3])}})
    assert status == 400
    assert {e["extra_info"]["input_name"] for e in answer["node_errors"]["1"]["errors"]} == {
        "checkpoint", "compute", "activation_scale",
    }  # fmt: skip


def test_refusal_is_a_clear_node_error(server):
    loader = node(
        "LoadFP8Checkpoint",
        checkpoint="diffusion_models/server-alien.safetensors",
        compute="auto",
        activation_scale="dynamic",
    )
    history = server.run({"1": loader, "2": node("PreviewAny", source=["1", 3])})
    errors = [m[1] for m in history["status"]["messages"] if m[0] == "execution_error"]
    assert len(errors) == 1
    assert errors[0]["node_type"] == "LoadFP8Checkpoint"
    assert errors[0]["exception_type"].endswith("Refused")
    assert "server-alien.safetensors" in errors[0]["exception_message"]


def test_api_prompt_with_report(server):
    """The report reaches whoever runs without a browser."""
    loader = node(
        "LoadFP8Checkpoint",
        checkpoint="diffusion_models/server-ltx.safetensors",
        compute="upcast",
        activation_scale="dynamic",
    )
    history = server.run({"1": loader, "2": node("PreviewAny", source=["1", 3])})
    text = history["outputs"]["2"]["text"][0]
    assert "LTX" in text and "single_blocks.2.linear2" in text and "upcast" in text
