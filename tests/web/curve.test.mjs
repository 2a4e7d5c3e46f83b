import assert from "node:assert/strict";
import test from "node:test";
import { axes, drawn, lowered, said } from "../../web/curve.mjs";
import { speak } from "../../web/words.mjs";

const point = (bytes, error, name = "") => ({ bytes, error, kind: "mixed", name });

test("bytes go to the right and errors upwards by powers of ten", () => {
  const points = [point(4e9, 0.1), point(8e9, 0.001), point(6e9, 0.01)];
  assert.deepEqual(points.map(axes(points)), [{ x: 0, y: 1 }, { x: 1, y: 0 }, { x: 0.5, y: 0.5 }]);
});

test("one point lies in the middle, and without error there is none", () => {
  assert.deepEqual(axes([point(4e9, 0.1)])(point(4e9, 0.1)), { x: 0.5, y: 0.5 });
  assert.deepEqual(drawn([point(4e9, 0), point(3e9, 0.1)]), [point(3e9, 0.1)]);
  assert.deepEqual(drawn(undefined), []);
});

test("a point is told with its size and error", () => {
  speak({}, "en");
  assert.equal(said(point(4.2e9, 0.0123, "nvfp4")), "nvfp4: 4.2 GB, 0.0123");
  assert.equal(said(point(4.2e9, 0.0123)), "4.2 GB, 0.0123");
});

test("names of points that lie together stand below each other", () => {
  const places = [{ x: 0, y: 1 }, { x: 0, y: 1 }, { x: 0.01, y: 0.95 }, { x: 0.1, y: 0.1 }, { x: 0.9, y: 1 }];
  const drops = lowered(places);
  const tops = places.map(({ y }, index) => (1 - y) * 160 + drops[index]);
  assert.ok(tops[1] - tops[0] >= 12 && tops[2] - tops[1] >= 12);
  assert.deepEqual([drops[0], drops[3], drops[4]], [0, 0, 0]);
  assert.deepEqual(lowered([]), []);
});
