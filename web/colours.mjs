// Colours of kernels and granularities, and a ramp for numbers. The same as in quant/quality/heatmap.py and quant/quality/sqnr.py.

const KNOWN = {
  "scaled_mm per-tensor fast": "#075e5a",
  "scaled_mm per-tensor": "#0b7a75",
  "scaled_mm per-row fast": "#12806a",
  "scaled_mm per-row": "#1fa187",
  "scaled_mm emulated per-row": "#7cc68d",
  "scaled_mm per-tensor dynamic": "#4fb3a9",
  "scaled_mm block": "#2f8fbf",
  "scaled_mm mxfp8": "#3b6fd8",
  "scaled_mm nvfp4": "#5a55c9",
  "scaled_mm int8 fused": "#2a5f8f",
  "scaled_mm int8": "#6aa5d8",
  "scaled_mm int8 convrot fused": "#24507a",
  "scaled_mm int8 convrot": "#8db9e0",
  "upcast fused": "#f0b64d",
  "dequantized block": "#e0a100",
  "upcast by comfy-kitchen": "#f4cf8a",
  "upcast compiled": "#e8a873",
  upcast: "#d95f32",
  "upcast by bits": "#e0915a",
  "upcast by table": "#b3402a",
  "per-tensor": "#0b7a75",
  "per-row": "#3b7dd8",
  block: "#e0a100",
  group: "#8a63d2",
  refused: "#c62828",
};
const OTHER = ["#8a63d2", "#c2569b", "#3b7dd8", "#7a7f87"];
// dark blue over teal to yellow: grows in lightness, readable without colour vision
const RAMP = [[48, 44, 110], [38, 92, 140], [30, 141, 138], [96, 188, 98], [246, 221, 74]];

/** name -> colour; the known ones always the same. */
export function colours(names) {
  const order = Object.keys(KNOWN);
  const rank = (name) => (order.includes(name) ? order.indexOf(name) : order.length);
  const unknown = [...names].filter((name) => !(name in KNOWN)).sort();
  const sorted = [...names].sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
  return new Map(sorted.map((name) => [name, KNOWN[name] ?? OTHER[unknown.indexOf(name) % OTHER.length]]));
}

/** Colour of a share 0..1 of the ramp. */
export function ramp(share) {
  const at = Math.min(1, Math.max(0, share)) * (RAMP.length - 1);
  const low = RAMP[Math.floor(at)];
  const high = RAMP[Math.ceil(at)];
  const mixed = low.map((value, i) => Math.round(value + (high[i] - value) * (at % 1)));
  return `rgb(${mixed.join(",")})`;
}

export const NOISE = "#c62828";
const NARROWEST = 12; // dB

/** The dB of both ends of the ramp: at least NARROWEST apart, so that layers which are alike look alike. */
export function span(decibels) {
  const known = decibels.filter(Number.isFinite);
  const [low, high] = known.length ? [Math.min(...known), Math.max(...known)] : [0, 0];
  const spare = Math.max(0, NARROWEST - (high - low)) / 2;
  return [low - spare, high + spare];
}
