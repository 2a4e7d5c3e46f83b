// What a plan offers: bytes against predicted error. Small dots mix formats, large ones are uniform, one is the budget.
import { h } from "./dom.mjs";
import { bytes, figure, t } from "./words.mjs";

/** point -> {x, y} in [0, 1]: bytes to the right, errors upwards by powers of ten. */
export function axes(points) {
  const sizes = span(points.map((point) => point.bytes));
  const errors = span(points.map((point) => Math.log10(point.error)));
  return (point) => ({ x: sizes(point.bytes), y: errors(Math.log10(point.error)) });
}

function span(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return (value) => (high > low ? (value - low) / (high - low) : 0.5);
}

/** What a point is, in words. */
export const said = ({ name, bytes: size, error }) => `${name ? `${name}: ` : ""}${bytes(size)}, ${figure(error)}`;

/** The points of a run's plan that can be drawn: without error there is no power of ten. */
export const drawn = (points) => (points ?? []).filter((point) => point.error > 0);

// pixels of the curve, as in scaled_fp8.css, and of a line; the share of its width that a name takes
const HEIGHT = 160;
const LINE = 13;
const WIDE = 0.4;

/** How many pixels each name goes down, so that none lies on one that stands higher and begins near it. */
export function lowered(places) {
  const own = places.map(({ y }) => (1 - y) * HEIGHT);
  const top = [];
  for (const index of places.map((_, index) => index).sort((a, b) => own[a] - own[b])) {
    const near = Object.keys(top).filter((other) => Math.abs(places[other].x - places[index].x) < WIDE);
    top[index] = Math.max(own[index], ...near.map((other) => top[other] + LINE));
  }
  return top.map((place, index) => place - own[index]);
}

/** Show a plan's curve in a part of the panel that folds; hidden where there is none. */
export function showCurve(part, points) {
  const seen = drawn(points);
  const at = axes(seen);
  const named = seen.filter((point) => point.name);
  const down = new Map(lowered(named.map(at)).map((drop, index) => [named[index], drop]));
  part.hidden = !seen.length;
  part.replaceChildren(
    h("summary", {}, t("curve")),
    h("div", { className: "sfp8-curve", role: "img", "aria-label": named.map(said).join("; ") },
      seen.map((point) => dot(point, at(point), down.get(point)))),
  );
}

function dot(point, { x, y }, down = 0) {
  const element = h("span", { className: `sfp8-dot sfp8-${point.kind}`, title: said(point) });
  Object.assign(element.style, { left: `${x * 100}%`, bottom: `${y * 100}%` });
  if (point.name) {
    const name = h("span", { className: x > 0.5 ? "sfp8-left" : "" }, point.name);
    name.style.translate = `0 ${down}px`;
    element.append(name);
  }
  return element;
}
