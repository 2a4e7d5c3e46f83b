// The box in a node: what the chosen file is, and after a run what ran.
import { get } from "./server.mjs";
import { h } from "./dom.mjs";
import { runLine, t, verdictLines } from "./words.mjs";

const HEIGHT = 96; // fixed, so that a saved workflow keeps its node sizes
const MARGIN = 20; // that the classic canvas takes off
const NONE = "none";

// node id -> the files its widgets name
const FILES = {
  LoadFP8Checkpoint: ({ checkpoint }) => [checkpoint],
  LoadFP8TextEncoder: ({ text_encoder, text_encoder_2 }) =>
    [text_encoder, text_encoder_2].map((name) => (name && name !== NONE ? `text_encoders/${name}` : null)),
  ScaledLinearPatch: ({ scales_from }) => [scales_from === NONE ? null : scales_from],
};
// node ids that show only what ran
const RUNNERS = ["QuantizeModel", "QuantizeTextEncoder", "QuantizeVAE"];
const boxes = new WeakMap();

export function values(node) {
  return Object.fromEntries((node.widgets ?? []).map((widget) => [widget.name, widget.value]));
}

/** Files named in a node of this pack. */
export function filesOf(node) {
  const files = FILES[node.comfyClass]?.(values(node)) ?? [];
  return files.filter((file) => typeof file === "string" && file);
}

/** Give a new node of this pack its box; other nodes stay as they are. */
export function attach(node) {
  if (!(node.comfyClass in FILES) && !RUNNERS.includes(node.comfyClass)) return;
  const element = h("div", { className: "sfp8-verdict", role: "status", tabIndex: 0 });
  // the canvas would zoom instead of letting a long sentence scroll
  element.addEventListener("wheel", (event) => {
    if (element.scrollHeight > element.clientHeight) event.stopPropagation();
  });
  const widget = node.addDOMWidget("scaled_fp8_verdict", "scaled_fp8_verdict", element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => HEIGHT + MARGIN,
    getMaxHeight: () => HEIGHT + MARGIN,
    getValue: () => undefined,
    setValue: () => {},
  });
  widget.serialize = false;
  const [, height] = node.computeSize();
  if (node.size[1] < height) node.setSize([node.size[0], height]);
  boxes.set(node, { node, element, asked: null, runs: {}, lines: [] });
  for (const chosen of node.widgets ?? []) {
    if (chosen === widget) continue;
    const before = chosen.callback;
    chosen.callback = function (...given) {
      const result = before?.apply(this, given);
      refresh(node);
      return result;
    };
  }
  // values of a loaded workflow arrive right after a node is made
  requestAnimationFrame(() => refresh(node));
}

/** Ask about the chosen files anew, unless they are the ones shown. */
export async function refresh(node, force = false) {
  const box = boxes.get(node);
  if (!box) return;
  const files = filesOf(node);
  const compute = values(node).compute;
  const asked = JSON.stringify([files, compute]);
  if (!force && box.asked === asked) return;
  Object.assign(box, { asked, runs: {}, lines: files.length ? [{ kind: "wait", text: t("looking") }] : [] });
  draw(box);
  const found = await Promise.all(files.map((file) => (offered(node, file) ? inspect(file, compute) : missing(file))));
  // another file was chosen meanwhile
  if (box.asked !== asked) return;
  box.lines = found.flatMap(verdictLines);
  draw(box);
}

/** Whether one of the node's lists has a file: a workflow of somebody else may name files that are not here. */
function offered(node, file) {
  const lists = (node.widgets ?? []).map((widget) => widget.options?.values).filter(Array.isArray);
  return !lists.length || lists.flat().some((name) => name === file || `text_encoders/${name}` === file);
}

function missing(file) {
  return { error: t("missing", { file }) };
}

async function inspect(file, compute) {
  try {
    return await get("inspect", { file, ...(compute ? { compute } : {}) });
  } catch (problem) {
    return { error: problem.message };
  }
}

/** Show what ran in the node that gave the MODEL, the CLIP or the VAE out. */
export function showRun(node, run) {
  const box = boxes.get(node);
  if (!box || node.comfyClass !== run.type) return;
  if (run.file && !filesOf(node).includes(run.file)) return;
  box.runs[run.part] = run;
  draw(box);
}

function draw({ node, element, lines, runs }) {
  const ran = Object.values(runs);
  const told = ran.map((run) => ({ kind: "ran", text: ran.length > 1 ? `${run.part} · ${runLine(run)}` : runLine(run) }));
  // what ran takes the place of what was to run
  const texts = ran.length ? [...told, ...lines.filter((line) => line.kind !== "plan")] : lines;
  const shown = texts.length ? texts : [{ kind: "plain", text: t(node.comfyClass in FILES ? "nothingChosen" : "notYet") }];
  element.replaceChildren(...shown.map(({ kind, text }) => h("div", { className: `sfp8-${kind}`, title: text }, text)));
  node.setDirtyCanvas?.(true, true);
}
