// The sidebar panel. What is chosen in it lives in `state`, so that it is as it was when opened again.
import { colours, ramp } from "./colours.mjs";
import { download, h } from "./dom.mjs";
import { HeatMap } from "./heatmap.mjs";
import { category, counted, csv, isSlow, kernelOf, range, shown, SORTS, value } from "./layers.mjs";
import { List } from "./list.mjs";
import { get } from "./server.mjs";
import { figure, runLine, t } from "./words.mjs";

const COLOURINGS = ["kernel", "granularity", "scale", "error"];
const ROW = 40;

export const state = {
  runs: [], // summaries, newest first
  node: null, // whose report is shown
  view: null, // {title, line, layers} shown: a report or an inspected file, which has tables of needs too
  by: "kernel", sort: "slow", query: "", reason: "", hidden: [],
  layer: null, // name of the chosen one
  doctor: null,
  scroll: 0,
  problem: "",
};

let parts = null; // of the open panel

/** Fill the sidebar's element; the panel stays live until close(). */
export function open(root) {
  close();
  // the editor's element is as high as its content otherwise
  root.style.height = "100%";
  parts = build(root);
  show();
  parts.list.element.scrollTop = state.scroll;
  if (!state.view) refresh();
}

export function close() {
  if (!parts) return;
  state.scroll = parts.list.element.scrollTop;
  parts.map.close();
  parts.list.close();
  parts = null;
}

export const isOpen = () => parts !== null && parts.root.isConnected;

/** Ask the server what ran; node: whose report to show, the newest without. */
export async function refresh(node = state.node) {
  try {
    state.runs = (await get("report")).runs;
    const run = state.runs.find((one) => one.node === node) ?? state.runs[0];
    if (run) await showNode(run.node);
    else show();
  } catch (problem) {
    fail(problem);
  }
  return state.runs;
}

export async function showNode(node) {
  const run = await get("report", { node });
  Object.assign(state, { node: run.node, problem: "" });
  view({ title: runTitle(run), line: runLine(run), layers: run.layers });
}

/** Show layers from elsewhere, an inspected file for example. */
export function showView(one) {
  Object.assign(state, { node: null, problem: "" });
  view(one);
}

export function fail(problem) {
  state.problem = problem.message ?? String(problem);
  show();
}

function view(one) {
  const known = new Set(one.layers.map((layer) => layer.reason));
  state.view = one;
  if (!known.has(state.reason)) state.reason = "";
  if (state.by === "error" && !range(one.layers, "error")) state.by = "kernel";
  show();
}

function runTitle(run) {
  const file = run.file.split("/").pop();
  return file ? `${file} · #${run.node}` : `${run.type} #${run.node}`;
}

///// Building, once an opening

function build(root) {
  const made = { root };
  made.title = h("select", { className: "sfp8-title", "aria-label": t("model"), onchange: pickRun });
  made.line = h("div", { className: "sfp8-line", role: "status" });
  made.by = h("select", { "aria-label": t("colourBy"), onchange: (e) => change({ by: e.target.value, hidden: [] }) });
  made.legend = h("div", { className: "sfp8-legend", role: "group", "aria-label": t("legend") });
  made.map = new HeatMap({ paint: paint, point: hover, choose: choose, label: t("map") });
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
  made.device = h("div", { className: "sfp8-doctor" });
  made.body = h("div", { className: "sfp8-body" }, bodyOf(made));
  made.empty = h("p", { className: "sfp8-empty" });
  root.replaceChildren(h("div", { className: "sfp8-panel" }, headOf(made), made.empty, made.body, made.needs, deviceOf(made)));
  return made;
}

function headOf(made) {
  const again = button("pi-refresh", t("refresh"), () => refresh());
  again.classList.add("sfp8-icon");
  again.lastChild.remove();
  again.setAttribute("aria-label", t("refresh"));
  return h("header", { className: "sfp8-head" }, h("div", { className: "sfp8-bar" }, made.title, again), made.line);
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

function deviceOf(made) {
  const details = h("details", { className: "sfp8-device" }, h("summary", {}, t("device")), made.device);
  details.addEventListener("toggle", () => details.open && diagnose());
  return details;
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
}

function showNeeds(tables) {
  parts.needs.hidden = !tables.length;
  parts.needs.replaceChildren(h("summary", {}, t("needs")), ...tables.map(needsTable));
}

function needsTable({ title, rows }) {
  const cells = ({ method, size, fits, text }) => [
    h("th", { scope: "row" }, method), h("td", {}, size), h("td", { className: fits ? "sfp8-good" : "sfp8-bad" }, text),
  ];
  return h("table", {}, h("caption", {}, title), h("tbody", {}, rows.map((row) => h("tr", {}, cells(row)))));
}

function showHead() {
  const options = state.runs.map((run) => h("option", { value: run.node }, runTitle(run)));
  if (state.view && state.node === null) options.unshift(h("option", { value: "" }, state.view.title));
  parts.title.replaceChildren(...(options.length ? options : [h("option", {}, t("noModel"))]));
  parts.title.value = state.node ?? "";
  parts.title.disabled = options.length < 2;
  parts.line.textContent = state.view?.line ?? "";
}

function showLayers(layers) {
  const usable = COLOURINGS.filter((by) => category(layers[0], by) !== null || range(layers, by));
  parts.by.replaceChildren(...usable.map((by) => h("option", { value: by }, t(`by_${by}`))));
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
  showLegend(layers);
  parts.map.faint = (layer) => !names.has(layer.layer);
  parts.map.chosen = layers.find((layer) => layer.layer === state.layer) ?? null;
  parts.map.show(layers);
  parts.list.show(found, found.findIndex((layer) => layer.layer === state.layer));
  parts.count.textContent = t("count", { shown: found.length, all: layers.length });
  showDetail(parts.map.chosen);
}

/** The colour of a layer, by what the panel colours by. */
function paint(layer) {
  const { view: one, by } = state;
  const kind = category(layer, by);
  if (kind !== null) return palette(one).get(kind);
  const at = value(layer, by);
  const [low, high] = range_(one) ?? [0, 0];
  return at === null ? null : ramp(high > low ? (at - low) / (high - low) : 0.5);
}

const cache = new WeakMap();
const once = (one, key, make) => {
  if (!cache.has(one)) cache.set(one, {});
  return (cache.get(one)[key] ??= make());
};
const palette = (one) =>
  once(one, `palette ${state.by}`, () => colours(new Set(one.layers.map((layer) => category(layer, state.by)))));
const range_ = (one) => once(one, `range ${state.by}`, () => range(one.layers, state.by));

function showLegend(layers) {
  if (category(layers[0], state.by) === null) return showRamp();
  const counts = counted(layers.map((layer) => category(layer, state.by)));
  parts.legend.replaceChildren(
    ...[...palette(state.view)].map(([name, colour]) => {
      const swatch = h("span", { className: "sfp8-swatch" });
      swatch.style.background = colour;
      const chip = h("button", { type: "button", className: "sfp8-chip", title: t("toggle", { name }) }, swatch);
      chip.append(h("span", {}, name), h("b", {}, String(counts.get(name) ?? 0)));
      chip.setAttribute("aria-pressed", !state.hidden.includes(name));
      chip.onclick = () => toggle(name);
      return chip;
    }),
  );
}

function toggle(name) {
  const hidden = state.hidden.includes(name) ? state.hidden.filter((one) => one !== name) : [...state.hidden, name];
  change({ hidden });
  const index = [...palette(state.view).keys()].indexOf(name);
  parts.legend.children[index]?.focus();
}

function showRamp() {
  const [low, high] = range_(state.view) ?? [0, 0];
  const bar = h("div", { className: "sfp8-ramp" });
  bar.style.background = `linear-gradient(90deg, ${[0, 0.25, 0.5, 0.75, 1].map(ramp).join(",")})`;
  const end = (at) => (state.by === "scale" ? figure(2 ** at) : t("decibel", { value: figure(at) }));
  parts.legend.replaceChildren(h("span", {}, end(low)), bar, h("span", {}, end(high)));
}

function fillRow(element, layer) {
  const swatch = h("span", { className: "sfp8-swatch" });
  swatch.style.background = paint(layer) ?? "transparent";
  const kernel = h("span", { className: isSlow(layer) ? "sfp8-slow" : "" }, kernelOf(layer));
  const facts = h("div", { className: "sfp8-facts" }, kernel, ` · ${layer.granularity}`);
  const calls = h("span", { className: "sfp8-calls", title: t("calls", { count: layer.calls }) }, `${layer.calls} ×`);
  element.title = `${layer.layer}\n${layer.reason}`;
  element.append(swatch, h("div", { className: "sfp8-name" }, layer.layer), calls, facts);
}

function hover(layer) {
  parts?.map.canvas.classList.toggle("sfp8-over", Boolean(layer));
  showDetail(layer ?? parts?.map.chosen);
}

function showDetail(layer) {
  if (!parts) return;
  const row = (name, text) => (text === "" || text === null ? [] : [h("dt", {}, name), h("dd", {}, text)]);
  parts.detail.replaceChildren(
    ...(layer
      ? [h("div", { className: "sfp8-name" }, layer.layer),
         h("dl", {},
           row(t("kernel"), `${kernelOf(layer)}${layer.calls ? ` × ${layer.calls}` : ""}`),
           row(t("format"), `${layer.format}, ${layer.granularity}, ${layer.shape.join(" × ")}`),
           row(t("activations"), layer.activation),
           row(t("scale"), layer.scale === null ? "" : figure(layer.scale)),
           row(t("error"), layer.error === null ? "" : t("decibel", { value: figure(layer.error) })),
           row(t("why"), layer.reason))]
      : [h("div", { className: "sfp8-hint" }, t("hint"))]),
  );
}

///// Acting

function choose(layer) {
  state.layer = layer.layer;
  const found = parts.list.rows.findIndex((row) => row.layer === layer.layer);
  parts.list.select(found);
  parts.map.chosen = layer;
  parts.map.draw();
  showDetail(layer);
}

function pickRun(event) {
  if (event.target.value) showNode(event.target.value).catch(fail);
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
  const names = category(state.view.layers[0], state.by) === null ? [] : [...palette(state.view)];
  const legend = [{ name: `${state.view.title} · ${t(`by_${state.by}`)}`, colour: "transparent" }];
  legend.push(...names.map(([name, colour]) => ({ name, colour })));
  download("scaled-fp8-heatmap.png", await parts.map.png(legend));
}

async function diagnose() {
  try {
    parts.device.textContent = t("measuring");
    state.doctor ??= await get("doctor");
    parts?.device.replaceChildren(...doctorOf(state.doctor));
  } catch (problem) {
    parts.device.textContent = problem.message;
  }
}

function doctorOf({ versions, devices, kernels }) {
  const version = Object.entries(versions).map(([name, number]) => `${name} ${number}`).join(" · ");
  return [
    ...Object.entries(devices).map(([device, name]) => h("section", {}, h("h4", {}, `${device} · ${name}`),
      h("ul", {}, kernels.filter((kernel) => kernel.device === device).map(kernelItem)))),
    h("p", { className: "sfp8-hint" }, version),
  ];
}

function kernelItem({ kernel, dtype, works, error, time, reason }) {
  const mark = h("i", { className: `pi ${works ? "pi-check-circle sfp8-good" : "pi-times-circle sfp8-bad"}`, "aria-hidden": true });
  const words = works ? t("works", { error: figure(error) }) + (time ? t("time", { time: figure(time) }) : "") : reason;
  return h("li", {}, mark, h("div", {}, h("b", {}, kernel), ` ${dtype}`, h("div", { className: "sfp8-hint" }, words)));
}
