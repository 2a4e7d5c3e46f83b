"""A user who changes things and runs again: each state of a random walk beside the same state in a fresh ComfyUI."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import card
import torch
from alphabet import TEXTS, WORKFLOWS, Workflow, applied, stamp, write_files, write_settings
from inside import REQUEST, answer, call, extra, identical, pack, unload
from running import RUNS, run

# small matrices: a second thread costs more than it does
torch.set_num_threads(1)
# what Torch Compile puts around a model, without the minutes that compiling it takes
torch._dynamo.config.disable = True
pack()
for file in ("nodes_lora_debug.py", "nodes_model_advanced.py", "nodes_model_merging.py", "nodes_torch_compile.py"):
    extra(file)
write_files()
if REQUEST["dynamic"]:
    card.insert()
chance = random.Random(REQUEST["seed"])


@dataclass(frozen=True)
class State:
    """nodes: the loader and what stands behind it; settings: text of the settings file; how: way, prompt, seed."""

    workflow: str
    nodes: tuple[tuple, ...]
    settings: str
    how: tuple[str, str, int]


##### What was wrong once is walked first

INT8 = ("ScaledLinearPatch", "int8", "dynamic", "double_blocks")
CODES = ("ScaledLinearPatch", "scaled_mm", "dynamic", "img_attn")
FP8, SOME = (("QuantizeModel", "fp8-dynamic", "per-row", keep) for keep in ("", "single_blocks"))
OTHER_METHOD = ("QuantizeModel", "int8", "per-tensor", "")
MERGED, BESIDE = ("LoraLoaderModelOnly", 1.0), ("LoraLoaderBypassModelOnly", 1.0)
KNOWN = [
    # a bypass LoRA made while a layer of another dtype stood there was cast to that dtype
    ("healed", [(INT8,), (INT8, BESIDE), (CODES, BESIDE), (BESIDE,), (BESIDE, INT8), (BESIDE,)]),
    # another method after a LoRA has run, another keep where a LoRA stands before it
    ("bf16", [(FP8, MERGED), (OTHER_METHOD, MERGED), (MERGED, FP8), (MERGED, SOME)]),
]
# codes that are integers could not be saved where ComfyUI moves weights by itself
SAVED = [("bf16", [(OTHER_METHOD,), (OTHER_METHOD, MERGED)])]


def known() -> Iterator[State]:
    for way, workflows in (("loaded", KNOWN), ("saved", SAVED)):
        for name, chains in workflows:
            for chain in chains:
                yield State(name, (WORKFLOWS[name].loaders[0], *chain), "", (way, "38", 8))


##### Walking


class Walk:
    """The ComfyUI of the user who changes things; outcomes: every state there was, with what came out."""

    def __init__(self) -> None:
        self.caches: dict[str, dict] = {name: {} for name in WORKFLOWS}
        self.chains = {name: [workflow.loaders[0]] for name, workflow in WORKFLOWS.items()}
        self.workflow, self.settings = "bf16", ""
        self.outcomes: list[tuple[State, torch.Tensor | str]] = []

    def step(self) -> None:
        if chance.random() < 0.2:
            self.workflow = chance.choice(list(WORKFLOWS))
        if chance.random() < 0.85:
            self.chains[self.workflow] = self.next_chain()
        if chance.random() < 0.1:
            self.settings = chance.choice(TEXTS)
        if chance.random() < 0.1:
            unload()
        how = (chance.choices(RUNS, (5, 5, 1))[0], chance.choice(("38", "07")), chance.choice((7, 8)))
        self.visit(State(self.workflow, tuple(self.chains[self.workflow]), self.settings, how))

    def next_chain(self) -> list[tuple]:
        loader, *parts = self.chains[self.workflow]
        refused = self.outcomes and isinstance(self.outcomes[-1][1], str)
        if refused and parts and chance.random() < 0.6:
            # what is refused is soon taken out again
            parts.remove(chance.choice(parts))
            return [loader, *parts]
        return changed(WORKFLOWS[self.workflow], [loader, *parts])

    def visit(self, state: State) -> None:
        self.outcomes.append((state, outcome(state, self.caches[state.workflow], chance.random() < 0.05)))


def changed(workflow: Workflow, nodes: list[tuple]) -> list[tuple]:
    """One node put in, taken out or given another input; or two nodes in the other order."""
    loader, *parts = nodes
    if len(workflow.loaders) > 1 and chance.random() < 0.15:
        return [chance.choice(workflow.loaders), *parts]
    if len(parts) > 1 and chance.random() < 0.2:
        return [loader, *chance.sample(parts, len(parts))]
    choices = chance.choices(workflow.parts, workflow.weights)[0]
    left = [part for part in parts if part not in choices]
    if len(left) < len(parts) and chance.random() < 0.3:
        return [loader, *left]
    left.insert(chance.randint(0, len(left)), chance.choice(choices))
    return [loader, *left]


def built(state: State, cache: dict):
    """What the last node gives out; as in ComfyUI's own cache, only nodes behind a change run again."""
    keys = [tuple((node, stamp(node)) for node in state.nodes[: i + 1]) for i in range(len(state.nodes))]
    for key in [key for key in cache if key not in keys]:
        del cache[key]
    given = None
    for key, node in zip(keys, state.nodes, strict=True):
        if key not in cache:
            cache[key] = applied(given, node, state.nodes[0])
        given = cache[key]
    return given


def outcome(state: State, cache: dict, looked_at: bool = False) -> torch.Tensor | str:
    """What comes out, or what a node says; looked_at: with a report of the model drawn first."""
    write_settings(state.settings)
    try:
        given = built(state, cache)
        if looked_at and hasattr(given, "model"):
            call("FP8Report", model=given)
        return run(given, *state.how)
    except Exception as problem:
        if type(problem).__name__ != "Refused":
            raise RuntimeError(f"{state}") from problem
        return str(problem)


@cache
def fresh(state: State) -> torch.Tensor | str:
    """The same in a ComfyUI that has loaded nothing else, from a model of its own."""
    unload()
    found = outcome(state, {})
    unload()
    return found


def alike(a: torch.Tensor | str, b: torch.Tensor | str) -> bool:
    return a == b if isinstance(a, str) or isinstance(b, str) else identical(a, b)


walk = Walk()
for state in known() if REQUEST["known"] else ():
    walk.visit(state)
for _ in range(REQUEST["steps"]):
    walk.step()
wrong = [(i, str(state)) for i, (state, got) in enumerate(walk.outcomes) if not alike(got, fresh(state))]
answer({
    "counts": Counter("refused" if isinstance(got, str) else "ran" for _, got in walk.outcomes),
    "met": sorted({node[0] for state, got in walk.outcomes if not isinstance(got, str) for node in state.nodes}),
    "states": fresh.cache_info().currsize,
    "wrong": wrong[:20],
    "differences": len(wrong),
})  # fmt: skip
