import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { ramp, span } from "../../web/colours.mjs";
import { category, counted, csv, decibel, fromInspection, isSlow, kernelOf, place, range, sections, share, shown, SORTS } from "../../web/layers.mjs";

const places = JSON.parse(readFileSync(new URL("./places.json", import.meta.url)));
const layer = (name, other = {}) => ({
  layer: name, kernel: "scaled_mm per-row", reason: "proven", format: "float8_e4m3fn", granularity: "per-tensor",
  shape: [8, 16], activation: "dynamic", calls: 0, ran: {}, slow: false, scale: 0.5, error: null, ...other,
});
const names = (layers) => layers.map((one) => one.layer);

for (const [name, expected] of Object.entries(places)) {
  test(`place of ${name}`, () => assert.deepEqual(place(name), expected));
}

test("sections hold every layer once, blocks in order of number", () => {
  const layers = ["b.10.q", "b.2.q", "b.2.k", "a.0.q", "in", "b.10.k"].map((name) => layer(name));
  const found = sections(layers);
  assert.deepEqual(found.map((s) => s.name), ["a", "b", ""]);
  assert.deepEqual(found[1].blocks, [2, 10]);
  assert.deepEqual(found[1].labels, ["k", "q"]);
  const held = found.flatMap((s) => s.labels.flatMap((l) => [...s.cells.get(l).values()]));
  assert.deepEqual(names(held).sort(), names(layers).sort());
});

test("the kernel that ran is shown, the planned one before", () => {
  assert.equal(kernelOf(layer("a")), "scaled_mm per-row");
  assert.equal(kernelOf(layer("a", { ran: { upcast: 3, "scaled_mm per-row": 1 } })), "upcast");
});

test("what is slow is the server's word, whatever a kernel is called", () => {
  assert.equal(isSlow(layer("a", { slow: true })), true);
  assert.equal(isSlow(layer("a", { kernel: "upcast", slow: false })), false);
  assert.equal(isSlow(layer("a", { slow: undefined })), true);
});

test("slow layers come first, the others in the model's order", () => {
  const layers = [layer("b.10"), layer("b.9", { kernel: "upcast", slow: true }), layer("b.2")];
  assert.deepEqual(names(shown(layers, {})), ["b.9", "b.2", "b.10"]);
});

test("sorts", () => {
  const layers = [
    layer("a", { calls: 1, scale: 3, error: 30, shape: [4, 4] }),
    layer("b", { calls: 3, scale: null, error: null, shape: [64, 64] }),
    layer("c", { calls: 2, scale: 9, error: 20, shape: [8, 8] }),
  ];
  const first = Object.fromEntries(SORTS.map((sort) => [sort, names(shown(layers, { sort })).join("")]));
  assert.deepEqual(first, { slow: "abc", name: "abc", calls: "bca", scale: "cab", error: "cab", size: "bca" });
});

test("search takes every word, in names, kernels and reasons", () => {
  const layers = [layer("b.0.img_attn.qkv"), layer("b.0.txt_attn.qkv", { reason: "odd shape" })];
  assert.deepEqual(names(shown(layers, { query: "QKV  txt" })), ["b.0.txt_attn.qkv"]);
  assert.deepEqual(names(shown(layers, { query: "odd" })), ["b.0.txt_attn.qkv"]);
  assert.deepEqual(shown(layers, { query: "nowhere" }), []);
});

test("filters by reason and by what the legend hides", () => {
  const layers = [layer("a"), layer("b", { kernel: "upcast", reason: "as asked" })];
  assert.deepEqual(names(shown(layers, { reason: "as asked" })), ["b"]);
  assert.deepEqual(names(shown(layers, { hidden: ["upcast"] })), ["a"]);
  assert.deepEqual(names(shown(layers, { hidden: ["per-tensor"], by: "granularity" })), []);
  assert.equal(category(layers[0], "scale"), null);
});

test("ranges are null where nothing is known, and in log2 for scales", () => {
  assert.equal(range([layer("a")], "error"), null);
  assert.deepEqual(range([layer("a", { scale: 0.25 }), layer("b", { scale: 8 }), layer("c", { scale: 0 })], "scale"), [-2, 3]);
});

const errors = (...values) => values.map((error, i) => layer(`b.${i}`, { error, noise: error === "nan" || error < 3 }));

test("errors: words stand for what JSON has no number for", () => {
  assert.deepEqual(errors(31.5, "inf", "-inf", null).map(decibel), [31.5, Infinity, -Infinity, null]);
  assert.ok(Number.isNaN(decibel(layer("a", { error: "nan" }))));
});

test("the worst error comes first, noise before, what is identical behind, the unmeasured last", () => {
  const layers = errors(40, "inf", null, -48, "nan", 20);
  assert.deepEqual(names(shown(layers, { sort: "error" })), ["b.4", "b.3", "b.5", "b.0", "b.1", "b.2"]);
});

test("noise and layers without error do not stretch the scale", () => {
  const layers = errors(20, 40, -48, "nan", "inf", null);
  const ends = range(layers, "error");
  assert.deepEqual(ends, [20, 40]);
  assert.deepEqual(layers.map((one) => share(one, "error", ends)), [0, 1, null, null, 1, null]);
  assert.equal(share(layer("a", { scale: 4 }), "scale", [2, 2]), 0.5);
});

test("layers with almost the same error have almost the same colour", () => {
  const [low, high] = span([30, 31]);
  assert.equal(high - low, 12);
  assert.equal(range(errors("inf", "inf"), "error").length, 2);
  assert.match(ramp(0.5), /^rgb/);
});

test("csv quotes what must be quoted and defuses formulas", () => {
  const text = csv([layer("=x", { reason: 'a "b", c\nd', calls: 2, ran: { upcast: 2 } })]);
  assert.equal(text.split("\r\n")[0], "layer,kernel,format,granularity,shape,activation,calls,scale,error,reason");
  assert.equal(text.split("\r\n")[1], `'=x,upcast,float8_e4m3fn,per-tensor,8x16,dynamic,2,0.5,,"a ""b"", c\nd"`);
});

test("csv: no cell begins a formula, and numbers stay numbers", () => {
  for (const name of ["-1+cmd", " =x", "\t=x", "+x", "@x", "  -x", "\r=x"]) {
    const row = csv([layer(name, { scale: -2 })]).split("\r\n")[1];
    assert.match(row, /^"?'/, name);
    assert.ok(row.includes(",-2,"), row);
  }
});

test("an inspected file has a layer for each of the verdict", () => {
  const verdict = { name: "b.0.q", shape: [8, 4], format: "float8_e4m3fn", granularity: "block", decision: "scaled", reason: "x" };
  const refused = { ...verdict, name: "b.1.q", format: null, granularity: null, decision: "refused", reason: "no scale" };
  const found = fromInspection({ layers: [verdict, refused], choices: { "b.0.q": { kernel: "upcast", reason: "why" } } });
  assert.deepEqual(found.map((one) => [one.kernel, one.reason]), [["upcast", "why"], ["refused", "no scale"]]);
});

test("counted: most first", () => {
  assert.deepEqual([...counted(["a", "b", "b"])], [["b", 2], ["a", 1]]);
});
