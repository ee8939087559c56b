// @ts-check
// What a drawing is in a link, without a browser: `node --test tests/browser/drawing_state.test.js`.
import assert from "node:assert/strict";
import { test } from "node:test";

import { PLACES, corner, moves, read, written } from "../../pages/components/drawing_state.js";

test("drawings come back from a link as they went", () => {
  const drawings = [[[[0, 0], [51, 51]], [[63, 62], [0, 51]]], [], [[[5, 6]]]];
  const text = written(/** @type {any} */ (drawings));
  assert.equal(text, "AAzz._-Az~~FG");
  assert.deepEqual(read(text, 3), drawings);
  assert.deepEqual(read(text, 4), [...drawings, []]);
});

test("what is no stroke in a link that was edited is left out", () => {
  assert.deepEqual(read("A~%!.AB~AAB.CD", 3), [[], [[[0, 1]]], [[[2, 3]]]]);
});

test("nothing drawn is an empty link, and the other way round", () => {
  assert.equal(written([[], [], []]), "");
  assert.deepEqual(read("", 2), [[], []]);
});

test("a place becomes one of 64 across and down, also beyond the edge", () => {
  assert.deepEqual(corner(0, 96, 96), [0, 63]);
  assert.deepEqual(corner(-20, 200, 96), [0, 63]);
  assert.deepEqual(corner(48, 24, 96), [32, 16]);
  assert.equal(PLACES.length, 64);
  assert.equal(new Set(PLACES).size, 64);
});

test("a corner is kept once the pen has moved", () => {
  assert.ok(moves([], [3, 3]));
  assert.ok(!moves([[3, 3]], [4, 4]));
  assert.ok(moves([[3, 3]], [5, 3]));
});
