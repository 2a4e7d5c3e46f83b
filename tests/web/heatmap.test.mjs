import assert from "node:assert/strict";
import { test } from "node:test";
import { fit, nearest } from "../../web/heatmap.mjs";

test("cells shrink with many blocks and the map grows beyond its frame before they vanish", () => {
  assert.deepEqual(fit(300, 80, 3), { label: 90, cell: 18, width: 300 });
  assert.equal(fit(300, 80, 30).cell, 7);
  const wide = fit(300, 80, 100);
  assert.equal(wide.cell, 3);
  assert.equal(wide.width, 90 + 300);
  assert.equal(fit(200, 500, 10).label, 84);
});

test("arrow keys go to the nearest cell and stop at the edge", () => {
  const spot = (x, y) => ({ x, y });
  const spots = [spot(0, 0), spot(10, 0), spot(20, 0), spot(0, 14), spot(10, 40)];
  assert.equal(nearest(spots, spots[0], 1, 0), spots[1]);
  assert.equal(nearest(spots, spots[2], 1, 0), spots[2]);
  assert.equal(nearest(spots, spots[1], 0, 1), spots[3]);
  assert.equal(nearest(spots, spots[3], 0, 1), spots[4]);
  assert.equal(nearest(spots, spots[3], 0, -1), spots[0]);
});
