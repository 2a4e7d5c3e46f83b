"""The example workflows, made to run on the digits model."""

from __future__ import annotations

import json
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "example_workflows"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.json"))
DIGITS = "0123"
# What a user's file names, model family and sizes become. Nothing else of a workflow changes.
VALUES = {
    "flux2-dev-fp8.safetensors": "server-ltx.safetensors",
    "flux2-dev-bf16.safetensors": "digits-flux2-bf16.safetensors",
    "diffusion_models/flux2-dev-fp8.safetensors": "diffusion_models/server-ltx.safetensors",
    "mistral_3_small_flux2_bf16.safetensors": "clip_l.safetensors",
    "mistral_3_small_flux2_fp8.safetensors": "clip_l-ltx-bare.safetensors",
    "flux2-vae.safetensors": "taef2",
    "flux2": "stable_diffusion",
}
WIDGETS = {
    "EmptyFlux2LatentImage": [64, 64, len(DIGITS)],
    "KSampler": [7, "fixed", 12, 1.0, "euler", "simple", 1.0],
    "CompareModels": [7, "fixed", 2, 1.0, "euler", "simple", 1, "always"],
}


def example(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.json").read_text())


def on_digits(workflow: dict, name: str) -> dict:
    """The same graph with the digits model's files; its latents are also saved as numbers under name."""
    for node in list(workflow["nodes"]):
        values = WIDGETS.get(node["type"], node.get("widgets_values", []))
        node["widgets_values"] = [VALUES.get(value, value) if isinstance(value, str) else value for value in values]
        if node["type"] == "CLIPTextEncode":
            insert_after(workflow, node, "DigitsConditioning", ["conditioning", "CONDITIONING"], [DIGITS])
        if node["type"] == "KSampler":
            append(workflow, node, "SaveLatentNumbers", ["latent", "LATENT"], [name])
    return workflow


def append(workflow: dict, node: dict, kind: str, slot: list[str], widgets: list) -> dict:
    """A new node fed by the first output of node."""
    workflow["last_node_id"] += 1
    workflow["last_link_id"] += 1
    link, identity = workflow["last_link_id"], workflow["last_node_id"]
    new = {"id": identity, "type": kind, "pos": [0, 0], "size": [200, 80], "flags": {}, "order": 99, "mode": 0,
           "inputs": [{"name": slot[0], "type": slot[1], "link": link}], "outputs": [], "properties": {},
           "widgets_values": widgets}  # fmt: skip
    workflow["nodes"].append(new)
    workflow["links"].append([link, node["id"], 0, identity, 0, slot[1]])
    node["outputs"][0]["links"] = [*(node["outputs"][0]["links"] or []), link]
    return new


def insert_after(workflow: dict, node: dict, kind: str, slot: list[str], widgets: list) -> None:
    """A new node between the first output of node and everything that it fed."""
    moved = node["outputs"][0]["links"]
    node["outputs"][0]["links"] = []
    new = append(workflow, node, kind, slot, widgets)
    new["outputs"] = [{"name": slot[1], "type": slot[1], "links": moved}]
    for link in workflow["links"]:
        if link[0] in moved:
            link[1] = new["id"]
