import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { keep, recall, sound, state } from "../../web/state.mjs";

const fresh = structuredClone(state);
const storage = (items = {}) => ({ getItem: (key) => items[key] ?? null, setItem: (key, text) => { items[key] = text; } });

beforeEach(() => {
  Object.assign(state, structuredClone(fresh));
  globalThis.sessionStorage = storage();
});

test("what was chosen is there again, what was measured is asked anew", () => {
  const chosen = { run: "4 MODEL", by: "error", sort: "size", query: "qkv", hidden: ["upcast"], layer: "b.0.q", scroll: 80 };
  Object.assign(state, chosen, { doctor: { kernels: [] }, problem: "gone", runs: [{}] });
  keep();
  Object.assign(state, structuredClone(fresh));
  recall();
  assert.deepEqual(state, { ...fresh, ...chosen });
});

test("what another version or another extension left is not taken", () => {
  assert.deepEqual(sound({ by: 3, hidden: "all", scroll: null, run: 7, pages: [], query: "q", layer: null, more: 1 }), { query: "q", layer: null });
  for (const text of ["", "null", "[1", "3", '"text"']) {
    globalThis.sessionStorage = storage({ "scaled_fp8.panel": text });
    recall();
    assert.deepEqual(state, fresh);
  }
});

test("a browser without storage begins anew and says nothing", () => {
  globalThis.sessionStorage = { getItem: () => { throw new Error("denied"); }, setItem: () => { throw new Error("full"); } };
  keep();
  recall();
  assert.deepEqual(state, fresh);
});
