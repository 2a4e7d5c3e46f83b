// What is chosen in the panel: as it was when the sidebar is opened again, and when the page is loaded again.
const KEY = "scaled_fp8.panel";

export const state = {
  runs: [], // summaries, newest first
  run: null, // key of the run that is shown
  file: null, // the inspected file that is shown in place of a run
  view: null, // {title, line, layers} shown: a report or an inspected file, which has tables of needs too
  by: "kernel", sort: "slow", query: "", reason: "", hidden: [],
  layer: null, // name of the chosen one
  pages: {}, // node -> the report that it wrote, as ComfyUI names files
  doctor: null,
  scroll: 0,
  problem: "",
};
const KEPT = ["run", "file", "by", "sort", "query", "reason", "hidden", "layer", "pages", "scroll"];
const NAMES = ["run", "file", "layer"]; // that may be null

/** Keep the choices for this tab of the browser. */
export function keep() {
  try {
    sessionStorage.setItem(KEY, JSON.stringify(Object.fromEntries(KEPT.map((name) => [name, state[name]]))));
  } catch {
    // storage may be forbidden or full: then a page begins anew
  }
}

/** Take what was kept, as far as it is what this version keeps. */
export function recall() {
  Object.assign(state, sound(stored()));
}

function stored() {
  try {
    return JSON.parse(sessionStorage.getItem(KEY)) ?? {};
  } catch {
    return {};
  }
}

/** The values of the kinds that state has. */
export function sound(found) {
  const fits = (name) => Object.hasOwn(Object(found), name) && (NAMES.includes(name) ? isName(found[name]) : kind(found[name]) === kind(state[name]));
  return Object.fromEntries(KEPT.filter(fits).map((name) => [name, found[name]]));
}

const isName = (value) => value === null || typeof value === "string";
const kind = (value) => (value === null ? "null" : Array.isArray(value) ? "array" : typeof value);
