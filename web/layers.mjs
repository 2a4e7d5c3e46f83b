// Layers as data: where they stand in the heat map, what of them is shown, and in which order. No page needed.
import { span } from "./colours.mjs";

/** Section, block and label of a layer: "double_blocks.3.img_attn.qkv" -> "double_blocks", 3, "img_attn.qkv". */
export function place(layer) {
  const found = /^(.+?)\.(\d+)(?:\.(.+))?$/.exec(layer);
  return found ? [found[1], Number(found[2]), found[3] ?? "weight"] : ["", 0, layer];
}

/** Layers as sections of {name, labels, blocks, cells: label -> block -> layer}; every layer once. */
export function sections(layers) {
  const found = new Map();
  for (const layer of layers) {
    const [name, block, label] = place(layer.layer);
    if (!found.has(name)) found.set(name, { name, blocks: new Set(), cells: new Map() });
    const section = found.get(name);
    section.blocks.add(block);
    if (!section.cells.has(label)) section.cells.set(label, new Map());
    section.cells.get(label).set(block, layer);
  }
  return [...found.values()]
    .sort((a, b) => (a.name === "") - (b.name === "") || compare(a.name, b.name))
    .map(({ name, blocks, cells }) => ({
      name,
      cells,
      labels: [...cells.keys()].sort(compare),
      blocks: [...blocks].sort((a, b) => a - b),
    }));
}

/** The kernel that ran most, or the planned one before anything ran. */
export function kernelOf(layer) {
  const ran = Object.entries(layer.ran ?? {}).sort((a, b) => b[1] - a[1]);
  return ran.length ? ran[0][0] : layer.kernel;
}

/** Whether a layer runs on dequantized weights: the server says so, from the kernel's family. */
export function isSlow(layer) {
  return layer.slow ?? true;
}

/** The layers of an inspected file, as a report has them before anything ran. */
export function fromInspection(found) {
  return found.layers.map((layer) => {
    const choice = found.choices?.[layer.name];
    return {
      layer: layer.name,
      kernel: choice?.kernel ?? layer.decision,
      reason: choice?.reason ?? layer.reason,
      slow: choice?.slow,
      format: layer.format ?? "",
      granularity: layer.granularity ?? "",
      shape: layer.shape,
      activation: "",
      calls: 0,
      ran: {},
      scale: null,
      error: null,
      noise: false,
    };
  });
}

const collator = new Intl.Collator("en", { numeric: true });
const compare = (a, b) => collator.compare(a, b);
const number = (value) => value ?? Number.NEGATIVE_INFINITY;
// JSON has no numbers for these
const WORDS = { inf: Infinity, "-inf": -Infinity, nan: NaN };

/** Signal to quantization noise of a layer in dB; null where nobody measured it. */
export function decibel(layer) {
  return layer.error in WORDS ? WORDS[layer.error] : (layer.error ?? null);
}

function badness(layer) {
  const found = decibel(layer);
  if (Number.isNaN(found)) return Number.NEGATIVE_INFINITY;
  return found === null ? Infinity : Math.min(found, Number.MAX_VALUE);
}

const size = (layer) => layer.shape.reduce((a, b) => a * b, 1);

// sort name -> order; each falls back to the name, so that equal layers stand as they stand in the model
const ORDERS = {
  slow: (a, b) => isSlow(b) - isSlow(a),
  name: () => 0,
  calls: (a, b) => b.calls - a.calls,
  scale: (a, b) => number(b.scale) - number(a.scale),
  error: (a, b) => badness(a) - badness(b),
  size: (a, b) => size(b) - size(a),
};
export const SORTS = Object.keys(ORDERS);

/** The layers that query, reason and category let through, sorted. */
export function shown(layers, { query = "", reason = "", hidden = [], by = "kernel", sort = "slow" }) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const gone = new Set(hidden);
  const order = ORDERS[sort] ?? ORDERS.slow;
  return layers
    .filter((layer) => !reason || layer.reason === reason)
    .filter((layer) => !gone.size || !gone.has(category(layer, by)))
    .filter((layer) => words.every((word) => text(layer).includes(word)))
    .sort((a, b) => order(a, b) || compare(a.layer, b.layer));
}

function text(layer) {
  return `${layer.layer} ${kernelOf(layer)} ${layer.format} ${layer.granularity} ${layer.reason}`.toLowerCase();
}

/** What a layer counts as in the legend; null where the colour is a number. */
export function category(layer, by) {
  return by === "granularity" ? layer.granularity : by === "kernel" ? kernelOf(layer) : null;
}

/** Name -> how many layers, most first. */
export function counted(values) {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return new Map([...counts].sort((a, b) => b[1] - a[1]));
}

/** [lowest, highest] of what colours numbers: log2 of scales, dB of errors that are no noise; null where none is known. */
export function range(layers, by) {
  const values = layers.map((layer) => value(layer, by)).filter((v) => v !== null);
  if (!values.length) return null;
  return by === "error" ? span(values) : [Math.min(...values), Math.max(...values)];
}

/** The number of a layer that gives its colour; infinite for one without error, null where there is none. */
export function value(layer, by) {
  if (by === "error") return layer.noise ? null : decibel(layer);
  const raw = layer[by];
  return raw > 0 && Number.isFinite(raw) ? Math.log2(raw) : null;
}

/** Where a layer stands between both ends of the ramp, 0..1; null where it has no number. */
export function share(layer, by, ends) {
  const at = value(layer, by);
  if (at === null || !ends) return null;
  const [low, high] = ends;
  if (at === Infinity) return 1;
  return high > low ? (at - low) / (high - low) : 0.5;
}

const COLUMNS = ["layer", "kernel", "format", "granularity", "shape", "activation", "calls", "scale", "error", "reason"];

/** Layers as CSV (RFC 4180), kernel being the one that ran. */
export function csv(layers) {
  const cells = (layer) => COLUMNS.map((name) => quoted(cell(layer, name)));
  return [COLUMNS.map(quoted), ...layers.map(cells)].map((line) => line.join(",")).join("\r\n") + "\r\n";
}

function cell(layer, name) {
  if (name === "kernel") return kernelOf(layer);
  if (name === "shape") return layer.shape.join("x");
  return String(layer[name] ?? "");
}

function quoted(value) {
  // a spreadsheet would take these for formulas; a number is none
  const formula = /^(\s*[-=+@]|[\t\r])/.test(value) && !/^-?\d+(\.\d+)?(e[-+]?\d+)?$/i.test(value);
  const safe = formula ? `'${value}` : value;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
