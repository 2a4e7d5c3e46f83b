// The colour of each layer, and what colours mean.
import { colours, NOISE, ramp } from "./colours.mjs";
import { h } from "./dom.mjs";
import { category, counted, decibel, range, share } from "./layers.mjs";
import { state } from "./state.mjs";
import { decibels, figure, t } from "./words.mjs";

const cache = new WeakMap();
const once = (one, key, make) => {
  if (!cache.has(one)) cache.set(one, {});
  return (cache.get(one)[key] ??= make());
};

/** Name -> colour, of what the layers of a view count as. */
export const palette = (one) =>
  once(one, `palette ${state.by}`, () => colours(new Set(one.layers.map((layer) => category(layer, state.by)))));
const ends = (one) => once(one, `ends ${state.by}`, () => range(one.layers, state.by));

/** The colour of a layer, by what the panel colours by. */
export function paint(layer) {
  const { view: one, by } = state;
  const kind = category(layer, by);
  if (kind !== null) return palette(one).get(kind);
  if (crossed(layer)) return NOISE;
  const at = share(layer, by, ends(one));
  return at === null ? null : ramp(at);
}

/** Whether a layer is drawn crossed out, so that noise is seen without colours. */
export const crossed = (layer) => state.by === "error" && layer.noise === true;

/** The legend: [{name, colour, count}]; count is null where colours are numbers. */
export function entries(one) {
  if (!byNumber(one)) {
    const counts = counted(one.layers.map((layer) => category(layer, state.by)));
    return [...palette(one)].map(([name, colour]) => ({ name, colour, count: counts.get(name) ?? 0 }));
  }
  const [low, high] = ends(one) ?? [0, 0];
  const steps = [0, 0.25, 0.5, 0.75, 1].map((at) => ({ name: number(low + (high - low) * at), colour: ramp(at), count: null }));
  return [...(hasSteps(one) ? steps : []), ...others(one)];
}

/** Elements of the legend: a button for each name, or the ramp between its numbers; toggle(name). */
export function legend(one, toggle) {
  if (!byNumber(one)) return entries(one).map((entry) => chip(entry, toggle));
  return [...(hasSteps(one) ? scale(ends(one)) : []), ...others(one).map(label)];
}

const byNumber = (one) => category(one.layers[0], state.by) === null;
const hasSteps = (one) => one.layers.some((layer) => Number.isFinite(share(layer, state.by, ends(one))) && decibel(layer) !== Infinity);
const number = (at) => (state.by === "scale" ? figure(2 ** at) : decibels(at));

/** What has no place on the ramp, with how many layers. */
function others(one) {
  if (state.by !== "error") return [];
  const count = (test) => one.layers.filter(test).length;
  return [
    { name: t("identical"), colour: ramp(1), count: count((layer) => decibel(layer) === Infinity) },
    { name: t("isNoise"), colour: NOISE, count: count((layer) => layer.noise) },
    { name: t("notMeasured"), colour: null, count: count((layer) => decibel(layer) === null) },
  ].filter((entry) => entry.count);
}

function chip({ name, colour, count }, toggle) {
  const button = h("button", { type: "button", className: "sfp8-chip", title: t("toggle", { name }) }, swatch(colour));
  button.append(h("span", {}, name), h("b", {}, String(count)));
  button.setAttribute("aria-pressed", !state.hidden.includes(name));
  button.onclick = () => toggle(name);
  return button;
}

const label = ({ name, colour, count }) => h("span", { className: "sfp8-entry" }, swatch(colour), `${name}: ${count}`);

function scale([low, high]) {
  const bar = h("div", { className: "sfp8-ramp" });
  bar.style.background = `linear-gradient(90deg, ${[0, 0.25, 0.5, 0.75, 1].map(ramp).join(",")})`;
  return [h("span", {}, number(low)), bar, h("span", {}, number(high))];
}

export function swatch(colour) {
  const element = h("span", { className: "sfp8-swatch" });
  element.style.background = colour ?? "var(--border-color, #555)";
  return element;
}
