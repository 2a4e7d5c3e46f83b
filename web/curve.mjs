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

/** Show a plan's curve in a part of the panel that folds; hidden where there is none. */
export function showCurve(part, points) {
  const seen = drawn(points);
  const at = axes(seen);
  const named = seen.filter((point) => point.name).map(said).join("; ");
  part.hidden = !seen.length;
  part.replaceChildren(
    h("summary", {}, t("curve")),
    h("div", { className: "sfp8-curve", role: "img", "aria-label": named }, seen.map((point) => dot(point, at(point)))),
  );
}

function dot(point, { x, y }) {
  const element = h("span", { className: `sfp8-dot sfp8-${point.kind}`, title: said(point) });
  Object.assign(element.style, { left: `${x * 100}%`, bottom: `${y * 100}%` });
  if (point.name) element.append(h("span", { className: x > 0.5 ? "sfp8-left" : "" }, point.name));
  return element;
}
