// @ts-check
// What the live chart decides, without a browser: `node --test tests/browser/chart_state.test.js`.
import assert from "node:assert/strict";
import { test } from "node:test";

import { atFrame, between, csv, current, edited, fitted, frameAt, framed, held, home, isInSight, near, numbers, pathOf, plain, seconds, sketch, themed, within } from "../../pages/components/chart_state.js";

const figure = () => ({
  data: [{ x: [9], y: [9] }, { x: [1], y: [2], name: "handle" }],
  layout: { xaxis: { range: [-3, 3] }, yaxis: { range: [-3, 3] }, annotations: [{ showarrow: true, x: 2, y: 3, ax: 1, ay: 2 }, { x: 0.5, y: 1 }] },
  handle: 1,
});

test("a held handle moves, and its arrows with it; nothing is changed in place", () => {
  const before = figure();
  const after = held(before, { x: 1.5, y: 1 });
  assert.deepEqual([after.data[1].x, after.data[1].y, after.data[1].name], [[1.5], [1], "handle"]);
  assert.deepEqual(after.layout.annotations, [{ showarrow: true, x: 2.5, y: 2, ax: 1.5, ay: 1 }, { x: 0.5, y: 1 }]);  // no heading
  assert.deepEqual(before, figure());
  assert.equal(after.data[0], before.data[0]);
});

test("nothing moves where nothing is held, or there is no handle", () => {
  const plainFigure = { data: [], layout: {} };
  assert.equal(held(plainFigure, { x: 1, y: 1 }), plainFigure);
  const one = figure();
  assert.equal(held(one, null), one);
  assert.deepEqual(home(one), { x: 1, y: 2 });
});

test("a place is kept within the figure's ranges", () => {
  assert.deepEqual(within(figure(), { x: 7, y: -9 }), { x: 3, y: -3 });
  assert.deepEqual(within(figure(), { x: 0.5, y: 1 }), { x: 0.5, y: 1 });
  assert.ok(near({ x: 0, y: 0 }, { x: 0.005, y: 0 }));
  assert.ok(!near({ x: 0, y: 0 }, { x: 0.02, y: 0 }));
});

const replay = {
  steps: [0, 10, 20],
  moving: [{ trace: 4, y: [[1], [2], [3]] }, { trace: 5, x: [[0], [10], [20]], y: [[7], [8], [9]] }],
  ghosts: [{ trace: 1, frame: 0 }, { trace: 2, frame: 1 }],
  labels: ["a", "b", "c"],
};

test("a frame says its step, moves its traces, and shows the ghosts before it", () => {
  const change = atFrame(replay, 1);
  assert.equal(change.text, "step 10 of 20 · b");
  assert.deepEqual([change.traces, change.x, change.y], [[4, 5], [undefined, [10]], [[2], [8]]]);
  assert.deepEqual([change.ghosts, change.visible], [[1, 2], [true, false]]);
});

test("between two frames everything has gone the same share of its way", () => {
  const change = atFrame(replay, 1.25);
  assert.equal(change.text, "step 10 of 20 · b");
  assert.deepEqual([change.x, change.y], [[undefined, [12.5]], [[2.25], [8.25]]]);
  assert.deepEqual(change.visible, [true, true]);
  assert.deepEqual(between([1, null, 3], [3, 4, null], 0.5), [2, null, null]);
  assert.deepEqual(atFrame(replay, 2).y, [[3], [9]]);
});

test("a figure at a moment of its replay is a copy; without one it is itself", () => {
  const shown = { data: Array.from({ length: 6 }, () => ({ x: [0], y: [0] })), layout: {}, replay };
  const moved = framed(shown, 0.5);
  assert.deepEqual([moved.data[4].y, moved.data[4].x, moved.data[5].x], [[1.5], [0], [5]]);
  assert.deepEqual([moved.data[1].visible, moved.data[2].visible], [true, false]);
  assert.deepEqual(shown.data[4].y, [0]);
  assert.equal(framed(shown, undefined), shown);
  assert.deepEqual(framed(shown, 0.5, true).data[2].visible, true);
  assert.equal(framed({ data: [], layout: {} }, 1).data.length, 0);
});

test("a field goes from frame to frame, beside lines that go all the way", () => {
  const fields = [[[1, 2], [3, 4]], [[5, 6], [7, 8]]];
  const both = { steps: [0, 1], labels: ["a", "b"], ghosts: [], moving: [{ trace: 0, z: fields }, { trace: 1, x: [[0], [1]], y: [[0], [10]] }] };
  const change = atFrame(both, 0.5);
  assert.deepEqual([change.fields, change.z, change.traces, change.y], [[0], [fields[0]], [1], [[5]]]);
  const shown = { data: [{ type: "heatmap", z: [[9]] }, { x: [1], y: [1] }], layout: {}, replay: both };
  const moved = framed(shown, 1);
  assert.deepEqual([moved.data[0].z, moved.data[0].x, moved.data[1].y], [fields[1], undefined, [10]]);
  assert.deepEqual(shown.data[0].z, [[9]]);
});

test("a replay begins with its first frame, ends with its last, and never goes back", () => {
  for (const last of [1, 3, 10, 100]) {
    const seen = Array.from({ length: 101 }, (_, i) => frameAt((i / 100) * seconds(last), last));
    assert.equal(seen[0], 0);
    assert.equal(seen[100], last);
    assert.ok(seen.every((frame, i) => i === 0 || frame >= seen[i - 1]));
    assert.ok(seconds(last) >= 1.5 && seconds(last) <= 5);
  }
  assert.equal(frameAt(1e9, 3), 3);
});

test("points are added, moved and deleted, in four digits, and never in place", () => {
  /** @type {[number, number][]} */
  const points = [[0, 1], [2, 3]];
  assert.deepEqual(edited(points, -1, false, [1.23456, -0.000123456]), [[0, 1], [2, 3], [1.235, -0.0001235]]);
  assert.deepEqual(edited(points, 1, true, [5, 6]), [[0, 1], [5, 6]]);
  assert.deepEqual(edited(points, 0, false, [0, 1]), [[2, 3]]);
  assert.deepEqual(points, [[0, 1], [2, 3]]);
  assert.deepEqual(edited([[0, 1, 2], [2, 3, 1]], 0, true, [5, 6]), [[5, 6, 2], [2, 3, 1]]);  // its class stays
});

test("a layout takes the page's colors, and keeps what its axes say themselves", () => {
  const theme = { text: "#111", background: "#fff", font: "serif", grid: "#ccc", fullscreen: false };
  const layout = { xaxis: { gridcolor: "red" }, yaxis2: {}, margin: { l: 1 } };
  const shown = themed(layout, theme);
  assert.equal(shown.paper_bgcolor, "rgba(0,0,0,0)");
  assert.equal(shown.xaxis.gridcolor, "red");
  assert.deepEqual(shown.yaxis2, { gridcolor: "#ccc", linecolor: "#ccc", automargin: true });
  assert.deepEqual(shown.margin, { l: 1 });
  assert.equal(themed(layout, { ...theme, fullscreen: true }).paper_bgcolor, "#fff");
  assert.deepEqual(layout, { xaxis: { gridcolor: "red" }, yaxis2: {}, margin: { l: 1 } });
});

test("a color that the browser computed becomes one that Plotly reads", () => {
  assert.equal(plain("color(srgb 0 0.5 1 / 0.14)"), "rgba(0,128,255,0.14)");
  assert.equal(plain("rgba(1, 2, 3, 0.5)"), "rgba(1, 2, 3, 0.5)");
});

test("a chart's data is a table of what its legend names", () => {
  const traces = [
    { name: 'a "b", c', x: new Float32Array([1, 2]), y: [3, null] },
    { name: "band", hoverinfo: "skip", x: [1], y: [1] },
    { name: "ghost", visible: false, x: [1], y: [1] },
    { name: "NaN", x: [5], y: [NaN] },
  ];
  assert.equal(csv(traces), 'trace,x,y\n"a ""b"", c",1,3\n"a ""b"", c",2,\nNaN,5,\n');
  const map = { type: "heatmap", x: [1, 2], y: [7], z: [[0.5, 0.25]] };
  assert.equal(csv([map]), "x,y,value\n1,7,0.5\n2,7,0.25\n");
});

test("a path breaks where a number is missing", () => {
  const twice = (/** @type {number} */ value) => 2 * value;
  assert.equal(pathOf([0, 1, 2, 3], [1, null, 3, 4], twice, twice), "M0.0,2.0M4.0,6.0L6.0,8.0");
  assert.equal(pathOf(new Float32Array([1]), [1], twice, () => Infinity), "");
});

test("numbers travel plain or packed", () => {
  assert.deepEqual(numbers([1, 2]), [1, 2]);
  const bytes = Buffer.from(new Float32Array([0.5, -2]).buffer).toString("base64");
  assert.deepEqual(Array.from(numbers({ dtype: "f4", bdata: bytes })), [0.5, -2]);
  assert.deepEqual(numbers(undefined), []);
});

test("a sketch has each line and point where Plotly will have it", () => {
  const margin = { l: 10, r: 10, t: 10, b: 10 };
  const drawn = sketch({
    data: [
      { x: [0, 10], y: [1, 100], mode: "lines", line: { color: "#123456", width: 3 } },
      { x: [5], y: [10], mode: "markers", marker: { color: "#abcdef", size: 8 } },
      { x: [0], y: [0], visible: false, mode: "lines", line: { color: "#000000" } },
      { x: [1, 2], y: [3, 3], mode: "lines", line: { color: "#654321" }, xaxis: "x2", yaxis: "y2" },
    ],
    layout: {
      margin, xaxis: { domain: [0, 0.5] }, yaxis: { type: "log", range: [0, 2] },
      xaxis2: { domain: [0.5, 1] }, yaxis2: { range: [2, 4] },
    },
  }, 220, 120);
  assert.match(drawn, /d="M10.0,110.0L110.0,10.0" fill="none" stroke="#123456" stroke-width="3"/);
  assert.match(drawn, /<circle cx="60.0" cy="60.0" r="4" fill="#abcdef"/);
  assert.match(drawn, /d="M110.0,60.0L210.0,60.0"/);
  assert.ok(!drawn.includes("#000000"));
});

test("points that were sent last are the ones that the next press changes, until the server shows them", () => {
  const sent = { points: [[0.9, -0.72]], until: 2000 };
  assert.deepEqual(current([], null, 0), []);
  assert.deepEqual(current([], sent, 1000), [[0.9, -0.72]]);  // the server still shows what was before
  assert.deepEqual(current([[0.9001, -0.72, 3]], sent, 1000), [[0.9001, -0.72, 3]]);  // it has answered, with a class
  assert.deepEqual(current([], sent, 2001), []);  // it has refused them, or the reader has cleared them
});

test("of several moments that are told at once the last one holds", () => {
  const [out, seen] = [{ isIntersecting: false }, { isIntersecting: true }];
  assert.deepEqual([[out, seen], [seen, out], [seen]].map(isInSight), [true, false, true]);
});

test("on a phone a figure takes its narrow layout and grows", () => {
  const figure = { data: [], layout: { xaxis: { domain: [0, 0.1] }, height: 1 }, narrow: { layout: { xaxis: { domain: [0, 0.3] } }, taller: 2 } };
  assert.deepEqual(fitted(figure, 390), { figure: { ...figure, layout: { xaxis: { domain: [0, 0.3] }, height: 1 } }, taller: 2 });
  for (const width of [0, 480, 1280]) assert.deepEqual(fitted(figure, width), { figure, taller: 1 });  // 0: not on the screen yet
  assert.deepEqual(fitted({ data: [], layout: {} }, 390).taller, 1);
});
