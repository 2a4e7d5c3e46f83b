// The sidebar panel. What is chosen in it lives in state.mjs.
import { showCurve } from "./curve.mjs";
import { device } from "./device.mjs";
import { download, h } from "./dom.mjs";
import { HeatMap } from "./heatmap.mjs";
import { inspected, needsTable } from "./inspection.mjs";
import { category, counted, csv, decibel, range, shown, SORTS } from "./layers.mjs";
import { crossed, entries, legend, paint, palette } from "./legend.mjs";
import { List } from "./list.mjs";
import { showPage } from "./page.mjs";
import { detail, fillRow } from "./rows.mjs";
import { get } from "./server.mjs";
import { keep, state } from "./state.mjs";
import { noiseLine, runLine, t } from "./words.mjs";

const COLOURINGS = ["kernel", "granularity", "scale", "error"];
const ROW = 40;

let parts = null; // of the open panel
let asked = null; // what was asked for last: an answer that comes after another choice is not shown

/** Fill the sidebar's element; the panel stays live until close(). */
export function open(root) {
  close();
  // the editor's element is as high as its content otherwise
  root.style.height = "100%";
  parts = build(root);
  show();
  if (state.view) scroll();
  else restore().then(scroll);
}

function scroll() {
  if (parts) parts.list.element.scrollTop = state.scroll;
}

/** What was shown before the page was loaded, or the newest run. */
async function restore() {
  if (!state.file) return refresh();
  await showFile(state.file).catch(fail);
}

export function close() {
  if (!parts) return;
  leave();
  parts.map.close();
  parts.list.close();
  parts = null;
}

/** Keep where the list stands. */
export function leave() {
  if (parts) state.scroll = parts.list.element.scrollTop;
  keep();
}

export const isOpen = () => parts !== null && parts.root.isConnected;

/** Ask the server what ran; key: whose report to show, without the one shown, or the newest. */
export async function refresh(key = null) {
  try {
    state.runs = (await get("report")).runs;
    // chosen while the server was asked
    const wanted = key ?? asked ?? state.run;
    const run = state.runs.find((one) => one.key === wanted) ?? state.runs[0];
    if (run) await showRun(run.key);
    else show();
  } catch (problem) {
    fail(problem);
  }
  return state.runs;
}

export async function showRun(key) {
  asked = key;
  const run = await get("report", { run: key });
  if (asked !== key) return;
  Object.assign(state, { run: run.key, file: null, problem: "" });
  view({ title: runTitle(run), line: runLine(run), layers: run.layers, node: run.node, page: run.page, curve: run.curve });
}

/** Show the layers of a file that ComfyUI lists, before anything ran. */
export async function showFile(file) {
  asked = file;
  const found = await inspected(file);
  if (asked !== file) return;
  Object.assign(state, { run: null, file, problem: "" });
  view(found);
}

export function fail(problem) {
  state.problem = problem.message ?? String(problem);
  show();
}

/** Take note of a report that a node wrote, which the server tells only where the node gave out a model too. */
export function pageWritten(node, file) {
  state.pages[node] = file;
  show();
}

function view(one) {
  const known = new Set(one.layers.map((layer) => layer.reason));
  state.view = one;
  if (!known.has(state.reason)) state.reason = "";
  if (!usable(one).includes(state.by)) Object.assign(state, { by: "kernel", hidden: [] });
  show();
}

/** What these layers can be coloured by. */
function usable({ layers }) {
  const measured = () => layers.some((layer) => decibel(layer) !== null);
  return COLOURINGS.filter((by) => !layers.length || category(layers[0], by) !== null || (by === "error" ? measured() : range(layers, by)));
}

function runTitle(run) {
  const file = run.file.split("/").pop();
  const part = run.part === "MODEL" ? "" : ` · ${run.part}`;
  return file ? `${file}${part} · #${run.node}` : `${run.type}${part} #${run.node}`;
}

///// Building, once an opening

function build(root) {
  const made = { root };
  made.title = h("select", { className: "sfp8-title", "aria-label": t("model"), onchange: pickRun });
  made.line = h("div", { className: "sfp8-line", role: "status" });
  made.by = h("select", { "aria-label": t("colourBy"), onchange: (e) => change({ by: e.target.value, hidden: [] }) });
  made.legend = h("div", { className: "sfp8-legend", role: "group", "aria-label": t("legend") });
  made.map = new HeatMap({ paint, crossed, point: hover, choose, label: t("map") });
  made.detail = h("div", { className: "sfp8-detail", "aria-live": "polite" });
  made.query = h("input", {
    type: "search", placeholder: t("search"), "aria-label": t("search"), value: state.query,
    oninput: (e) => change({ query: e.target.value }),
  });
  // the editor's own shortcuts must not fire while one types
  made.query.addEventListener("keydown", (event) => event.stopPropagation());
  made.reason = h("select", { "aria-label": t("reason"), onchange: (e) => change({ reason: e.target.value }) });
  made.sort = h("select", { "aria-label": t("sort"), onchange: (e) => change({ sort: e.target.value }) });
  made.sort.append(...SORTS.map((name) => h("option", { value: name }, t(`sort_${name}`))));
  made.count = h("span", { className: "sfp8-count", role: "status" });
  made.list = new List({ height: ROW, fill: fillRow, choose, label: t("layerList") });
  made.needs = h("details", { className: "sfp8-needs", hidden: true });
  made.curve = h("details", { className: "sfp8-needs", hidden: true });
  made.page = button("pi-file", t("openPage"), openPage);
  made.noise = h("p", { className: "sfp8-noise sfp8-bad", role: "status" });
  made.body = h("div", { className: "sfp8-body" }, bodyOf(made));
  made.empty = h("p", { className: "sfp8-empty" });
  root.replaceChildren(h("div", { className: "sfp8-panel" }, headOf(made), made.empty, made.body, made.curve, made.needs, device()));
  return made;
}

function headOf(made) {
  const again = button("pi-refresh", t("refresh"), () => refresh());
  again.classList.add("sfp8-icon");
  again.lastChild.remove();
  again.setAttribute("aria-label", t("refresh"));
  return h("header", { className: "sfp8-head" }, h("div", { className: "sfp8-bar" }, made.title, again), made.line, made.noise, made.page);
}

function bodyOf(made) {
  return [
    h("div", { className: "sfp8-bar" }, h("label", {}, t("colourBy")), made.by),
    made.legend,
    made.map.element,
    made.detail,
    made.query,
    h("div", { className: "sfp8-bar" }, made.reason, made.sort),
    made.list.element,
    h("div", { className: "sfp8-bar sfp8-foot" }, made.count,
      button("pi-copy", t("json"), () => copy(JSON.stringify(exported(), null, 1))),
      button("pi-copy", t("csv"), () => copy(csv(exported()))),
      button("pi-download", t("png"), savePng)),
  ];
}

function button(icon, text, onclick) {
  return h("button", { type: "button", title: text, onclick }, h("i", { className: `pi ${icon}`, "aria-hidden": true }), text);
}

///// Showing the state

function change(changed) {
  Object.assign(state, changed);
  if (parts) parts.list.element.scrollTop = 0;
  show();
}

function show() {
  if (!parts) return;
  const { view: one } = state;
  const some = Boolean(one?.layers.length);
  showHead();
  parts.body.hidden = !some;
  parts.empty.hidden = some;
  parts.empty.textContent = state.problem || (one ? t("noLayers") : t("nothingRan"));
  parts.empty.classList.toggle("sfp8-bad", Boolean(state.problem));
  if (some) showLayers(one.layers);
  showNeeds(one?.needs ?? []);
  showCurve(parts.curve, one?.curve);
  keep();
}

function showNeeds(tables) {
  parts.needs.hidden = !tables.length;
  parts.needs.replaceChildren(h("summary", {}, t("needs")), ...tables.map(needsTable));
}

function showHead() {
  const options = state.runs.map((run) => h("option", { value: run.key }, runTitle(run)));
  if (state.view && state.run === null) options.unshift(h("option", { value: "" }, state.view.title));
  parts.title.replaceChildren(...(options.length ? options : [h("option", {}, t("noModel"))]));
  parts.title.value = state.run ?? "";
  parts.title.disabled = options.length < 2;
  parts.line.textContent = state.view?.line ?? "";
  parts.noise.textContent = noiseLine(state.view?.layers ?? []);
  parts.noise.hidden = !parts.noise.textContent;
  parts.page.hidden = !pageOf(state.view);
}

function showLayers(layers) {
  parts.by.replaceChildren(...usable(state.view).map((by) => h("option", { value: by }, t(`by_${by}`))));
  parts.by.value = state.by;
  parts.sort.value = state.sort;
  const reasons = counted(layers.map((layer) => layer.reason));
  parts.reason.replaceChildren(
    h("option", { value: "" }, t("everyReason")),
    ...[...reasons].map(([reason, count]) => h("option", { value: reason }, `${count} × ${reason || t("noReason")}`)),
  );
  parts.reason.value = state.reason;
  const found = shown(layers, state);
  const names = new Set(found.map((layer) => layer.layer));
  parts.legend.replaceChildren(...legend(state.view, toggle));
  parts.map.faint = (layer) => !names.has(layer.layer);
  parts.map.chosen = layers.find((layer) => layer.layer === state.layer) ?? null;
  parts.map.show(layers);
  parts.list.show(found, found.findIndex((layer) => layer.layer === state.layer));
  parts.count.textContent = t("count", { shown: found.length, all: layers.length });
  showDetail(parts.map.chosen);
}

function toggle(name) {
  const hidden = state.hidden.includes(name) ? state.hidden.filter((one) => one !== name) : [...state.hidden, name];
  change({ hidden });
  const index = [...palette(state.view).keys()].indexOf(name);
  parts.legend.children[index]?.focus();
}

function hover(layer) {
  parts?.map.canvas.classList.toggle("sfp8-over", Boolean(layer));
  showDetail(layer ?? parts?.map.chosen);
}

function showDetail(layer) {
  parts?.detail.replaceChildren(...(layer ? detail(layer) : [h("div", { className: "sfp8-hint" }, t("hint"))]));
}

///// Acting

function choose(layer) {
  state.layer = layer.layer;
  const found = parts.list.rows.findIndex((row) => row.layer === layer.layer);
  parts.list.select(found);
  parts.map.chosen = layer;
  parts.map.draw();
  showDetail(layer);
  keep();
}

function pickRun(event) {
  if (event.target.value) showRun(event.target.value).catch(fail);
}

const pageOf = (one) => one?.page ?? state.pages[one?.node];

function openPage() {
  showPage(pageOf(state.view)).catch(fail);
}

/** What is exported: the layers that are shown, as they are sorted. */
function exported() {
  return shown(state.view.layers, state);
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    parts.count.textContent = t("copied");
  } catch {
    // no clipboard without a secure page: a file instead
    download(`scaled-fp8-report.${text.startsWith("[") ? "json" : "csv"}`, new Blob([text], { type: "text/plain" }));
  }
}

async function savePng() {
  const title = { name: `${state.view.title} · ${t(`by_${state.by}`)}`, colour: "transparent" };
  const lines = entries(state.view).map(({ name, colour, count }) => ({ name: count === null ? name : `${name}: ${count}`, colour }));
  download("scaled-fp8-heatmap.png", await parts.map.png([title, ...lines]));
}
