import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { colours, ramp } from "../../web/colours.mjs";
import { bytes, decibels, figure, needTables, noiseLine, runLine, speak, t, tally, verdictLines } from "../../web/words.mjs";

const root = new URL("../../", import.meta.url);
const read = (path) => readFileSync(new URL(path, root), "utf8");
const main = (language) => JSON.parse(read(`locales/${language}/main.json`)).scaled_fp8;
const all = { en: { scaled_fp8: main("en") }, zh: { scaled_fp8: main("zh") } };

test("every string that is used is in English, and every one in Chinese too", () => {
  const files = readdirSync(new URL("web/", root)).filter((name) => /\.m?js$/.test(name));
  const source = files.map((name) => read(`web/${name}`)).join("\n");
  const used = [...source.matchAll(/\bt\(\s*"(\w+)"/g)].map((found) => found[1]);
  for (const [, yes, no] of source.matchAll(/\bt\([\w. ]+ \? "(\w+)" : "(\w+)"/g)) used.push(yes, no);
  assert.ok(used.length > 30);
  for (const key of used) assert.ok(key in all.en.scaled_fp8, key);
  assert.deepEqual(Object.keys(all.zh.scaled_fp8), Object.keys(all.en.scaled_fp8));
});

test("both languages fill in the same values", () => {
  const holes = (text) => [...text.matchAll(/\{\w+\}/g)].map(String).sort();
  for (const [key, text] of Object.entries(all.en.scaled_fp8)) assert.deepEqual(holes(all.zh.scaled_fp8[key]), holes(text), key);
});

test("a language that is missing falls back to English, a key to itself", () => {
  speak(all, "fr");
  assert.equal(t("count", { shown: 1, all: 2 }), "1 of 2 layers");
  assert.equal(t("nonesuch"), "nonesuch");
  speak(all, "zh-TW");
  assert.equal(t("kernel"), "内核");
  speak(null, "en");
  assert.equal(t("kernel"), "kernel");
  speak(all, "en");
});

test("errors in words, and which layers are noise", () => {
  speak(all, "en");
  assert.deepEqual([31.44, Infinity, -48].map(decibels), ["31.4 dB", "identical", "-48.0 dB"]);
  const layers = (count) => Array.from({ length: 9 }, (_, i) => ({ layer: `b.${i}`, error: i < 8 ? 0 : null, noise: i < count }));
  assert.equal(noiseLine(layers(0)), "");
  assert.match(noiseLine(layers(2)), /^2 of 8 layers are noise.*b\.0, b\.1\.$/);
  assert.match(noiseLine(layers(7)), /^7 of 8 .*b\.4 and 2 more\.$/);
});

test("numbers for people", () => {
  assert.deepEqual([0, 999, 1000, 6922728, 24.4e9, undefined].map(bytes), ["0 B", "999 B", "1.0 kB", "6.9 MB", "24.4 GB", ""]);
  assert.deepEqual([0, 14, 0.0244999, 4.49e-7, 123456.7, null, NaN].map(figure), ["0", "14", "0.0245", "4.49e-7", "1.23e+5", "–", "–"]);
  assert.equal(tally({ upcast: 160, "scaled_mm per-row": 8 }), "160 upcast, 8 scaled_mm per-row");
  assert.equal(tally({ upcast: 160 }), "upcast");
  assert.equal(tally(undefined), "");
});

test("a verdict in lines", () => {
  speak(all, "en");
  const found = {
    accepted: true, dialect: "LTX", totals: { scaled: 12, "plain cast": 2, "other tensors": 3 }, formats: { float8_e4m3fn: 14 },
    granularities: { "per-tensor": 14 }, size: 24.4e9, memory: 25e9, plan: { "scaled_mm per-row": 14 }, device: "RTX 4090",
  };
  const text = verdictLines(found).map((line) => line.text).join("\n");
  for (const part of ["14 layers", "per-tensor", "LTX", "2 of them", "scaled_mm per-row on RTX 4090", "24.4 GB", "25.0 GB"]) {
    assert.ok(text.includes(part), part);
  }
  assert.deepEqual(verdictLines({ accepted: false, sentence: "No." }), [{ kind: "bad", text: "No." }]);
  assert.deepEqual(verdictLines({ error: "404" }), [{ kind: "bad", text: "404" }]);
  assert.ok(verdictLines({ ...found, problem: "no kernel" }).some((line) => line.kind === "bad" && line.text === "no kernel"));
  assert.equal(verdictLines({ ...found, totals: {} })[0].text, all.en.scaled_fp8.unquantized);
});

test("a run in one line", () => {
  const run = { count: 14, calls: 56, kernels: { upcast: 14 }, device: "CPU" };
  assert.equal(runLine(run), "Ran: upcast, 56 calls in 14 layers");
  assert.equal(runLine({ ...run, calls: 0 }), "Ready: 14 layers, upcast on CPU");
  assert.equal(runLine({ ...run, count: 0 }), "No scaled layers in this model.");
});

test("colours do not depend on what else is there", () => {
  assert.equal(colours(["upcast", "new kernel"]).get("upcast"), colours(["upcast"]).get("upcast"));
  assert.equal(new Set(colours(["x", "y", "upcast", "upcast by table"]).values()).size, 4);
  assert.match(ramp(-1), /^rgb\(48,44,110\)$/);
  assert.match(ramp(2), /^rgb\(246,221,74\)$/);
});

test("what each method would need, beside what is free", () => {
  speak(all, "en");
  const needs = { transformer: [{ method: "none", peak: 24e9 }, { method: "int4", peak: 7e9 }], vae: [{ method: "none", peak: 1e9 }] };
  assert.deepEqual(needTables({ free: 16e9, needs }), [
    { title: "transformer, 16.0 GB free", rows: [
      { method: "none", size: "24.0 GB", fits: false, text: "8.0 GB too much" },
      { method: "int4", size: "7.0 GB", fits: true, text: "fits" },
    ] },
    { title: "vae, 16.0 GB free", rows: [{ method: "none", size: "1.0 GB", fits: true, text: "fits" }] },
  ]);
  assert.deepEqual(needTables({ accepted: false, sentence: "No." }), []);
});
