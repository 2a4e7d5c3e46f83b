// A file as the panel shows it before anything ran.
import { h } from "./dom.mjs";
import { fromInspection } from "./layers.mjs";
import { get } from "./server.mjs";
import { needTables, t, tally } from "./words.mjs";

/** What the panel shows of a file that ComfyUI lists as folder/name. */
export async function inspected(file) {
  const found = await get("inspect", { file, layers: 1 });
  return { title: file.split("/").pop(), line: lineOf(found), layers: fromInspection(found), needs: needTables(found) };
}

function lineOf(found) {
  if (!found.accepted) return found.sentence;
  if (!Object.keys(found.plan ?? {}).length) return found.problem ?? t("unquantized");
  return t("planned", { kernels: tally(found.plan), device: found.device });
}

/** A table of words.needTables as an element. */
export function needsTable({ title, rows }) {
  const cells = ({ method, size, fits, text }) => [
    h("th", { scope: "row" }, method), h("td", {}, size), h("td", { className: fits ? "sfp8-good" : "sfp8-bad" }, text),
  ];
  return h("table", {}, h("caption", {}, title), h("tbody", {}, rows.map((row) => h("tr", {}, cells(row)))));
}
