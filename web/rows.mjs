// One layer in the list, and in full.
import { h } from "./dom.mjs";
import { decibel, isSlow, kernelOf } from "./layers.mjs";
import { paint, swatch } from "./legend.mjs";
import { decibels, figure, t } from "./words.mjs";

/** Fill the row of a layer. */
export function fillRow(element, layer) {
  const kernel = h("span", { className: isSlow(layer) ? "sfp8-slow" : "" }, kernelOf(layer));
  const granularity = layer.granularity && ` · ${layer.granularity}`;
  const facts = h("div", { className: "sfp8-facts" }, kernel, granularity, ...said(layer, " · "));
  const calls = h("span", { className: "sfp8-calls", title: t("calls", { count: layer.calls }) }, `${layer.calls} ×`);
  element.title = `${layer.layer}\n${layer.reason}`;
  element.append(swatch(paint(layer)), h("div", { className: "sfp8-name" }, layer.layer), calls, facts);
}

/** All that is known of a layer, as elements. */
export function detail(layer) {
  const weight = [layer.format, layer.granularity, layer.shape.join(" × ")].filter(Boolean).join(", ");
  const row = (name, ...texts) => (texts.join("") === "" ? [] : [h("dt", {}, name), h("dd", {}, ...texts)]);
  return [
    h("div", { className: "sfp8-name" }, layer.layer),
    h("dl", {},
      row(t("kernel"), `${kernelOf(layer)}${layer.calls ? ` × ${layer.calls}` : ""}`),
      row(t("format"), weight),
      row(t("activations"), layer.activation),
      row(t("scale"), layer.scale === null ? "" : figure(layer.scale)),
      row(t("error"), ...said(layer)),
      row(t("why"), layer.reason)),
  ];
}

/** The error of a layer, red where it is noise; nothing where nobody measured it. */
function said(layer, before = "") {
  const found = decibel(layer);
  if (found === null) return [];
  if (!layer.noise) return [before + decibels(found)];
  return [before, h("span", { className: "sfp8-bad" }, t("noiseOf", { error: decibels(found) }))];
}
