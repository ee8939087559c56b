// @ts-check
// What the live chart decides, as pure functions of plain data: no element, no clock, no Plotly.
// The types are the browser's half of the contract in maml_core/figures.

/**
 * @typedef {{trace: number, x?: (number | null)[][], y?: (number | null)[][], z?: number[][][]}} Moving a trace's values at every frame; a field's have rows
 * @typedef {{trace: number, frame: number}} Ghost a trace that stays behind once its frame is over
 * @typedef {{steps: number[], moving: Moving[], ghosts: Ghost[], labels: string[], autoplay?: boolean}} Replay
 * @typedef {Record<string, any>} Trace
 * @typedef {{data: Trace[], layout: Record<string, any>, replay?: Replay, handle?: number, narrow?: Narrow}} Figure
 * @typedef {{layout: Record<string, any>, taller: number}} Narrow
 * @typedef {{x: number, y: number}} Point
 * @typedef {number[]} Pair a point's x and y, and its class where it has one
 * @typedef {{text: string, background: string, font: string, grid: string, fullscreen: boolean}} Theme
 */

/**
 * A figure with its handle where the pointer holds it, and the arrows that start from the handle with it.
 * @param {Figure} figure
 * @param {Point | null | undefined} at
 * @returns {Figure}
 */
export function held(figure, at) {
  if (!at || figure.handle === undefined) return figure;
  const home = figure.data[figure.handle];
  const [dx, dy] = [at.x - home.x[0], at.y - home.y[0]];
  const data = figure.data.slice();
  data[figure.handle] = { ...home, x: [at.x], y: [at.y] };
  const annotations = (figure.layout.annotations || []).map((/** @type {any} */ one) => one.showarrow
    ? { ...one, x: one.x + dx, y: one.y + dy, ax: one.ax + dx, ay: one.ay + dy } : one);
  return { ...figure, data, layout: { ...figure.layout, annotations } };
}

/**
 * Where a figure's handle is, as the server knows it.
 * @param {Figure} figure
 * @returns {Point}
 */
export function home(figure) {
  const trace = figure.data[figure.handle ?? -1];
  return { x: trace.x[0], y: trace.y[0] };
}

/**
 * Whether two places are the same to the precision that the server keeps.
 * @param {Point} one
 * @param {Point} other
 */
export function near(one, other) {
  return Math.hypot(one.x - other.x, one.y - other.y) < 0.01;
}

/**
 * A place no further out than the figure's own ranges, which the server keeps to as well: the reader may have zoomed out.
 * @param {Figure} figure
 * @param {Point} at
 * @returns {Point}
 */
export function within(figure, at) {
  const along = (/** @type {number} */ value, /** @type {string} */ axis) => {
    const [low, high] = figure.layout[axis].range;
    return Math.min(high, Math.max(low, value));
  };
  return { x: along(at.x, "xaxis"), y: along(at.y, "yaxis") };
}

/**
 * A layout in the page's own colors.
 * @param {Record<string, any>} layout
 * @param {Theme} theme
 * @returns {Record<string, any>}
 */
export function themed(layout, theme) {
  /** @type {Record<string, any>} */
  const full = {
    ...layout,
    paper_bgcolor: theme.fullscreen ? theme.background : "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: theme.font, size: 13, color: theme.text },
    hoverlabel: { bgcolor: theme.background, bordercolor: theme.grid, font: { color: theme.text } },
    autosize: true,
  };
  for (const key of Object.keys(full)) {
    if (/^[xy]axis/.test(key)) full[key] = { gridcolor: theme.grid, linecolor: theme.grid, automargin: true, ...full[key] };
  }
  return full;
}

/**
 * A color that the browser computed, as Plotly reads it: `color(srgb 0 0.5 1 / 0.2)` becomes `rgba(0,128,255,0.2)`.
 * @param {string} color
 */
export function plain(color) {
  return color.replace(/^color\(srgb (\S+) (\S+) (\S+) \/ (.*)\)$/, (_, r, g, b, a) =>
    `rgba(${[r, g, b].map((value) => Math.round(value * 255)).join(",")},${a})`);
}

/**
 * Numbers between two lists of them; where either has none, there is none.
 * @param {(number | null)[]} from
 * @param {(number | null)[]} to
 * @param {number} share how much of the way has been gone, from 0 to 1
 * @returns {(number | null)[]}
 */
export function between(from, to, share) {
  if (share === 0 || from === to) return from;
  return from.map((value, i) => {
    const end = to[i];
    return value === null || end === null || end === undefined ? null : value + share * (end - value);
  });
}

/**
 * What changes in a chart to show one moment of its replay: a frame, or what lies between two. Traces that keep their
 * x have none in the answer's `x`. Fields go from frame to frame: what lies between two classes is no class.
 * @param {Replay} replay
 * @param {number} position a frame's number, or a fraction between two
 */
export function atFrame(replay, position) {
  const frame = Math.floor(position + 1e-6);
  const share = Math.max(0, position - frame);
  const next = Math.min(frame + 1, replay.steps.length - 1);
  const [lines, fields] = [replay.moving.filter((part) => !part.z), replay.moving.filter((part) => part.z)];
  return {
    text: `step ${replay.steps[frame]} of ${replay.steps[replay.steps.length - 1]} · ${replay.labels[frame]}`,
    traces: lines.map((part) => part.trace),
    x: lines.map((part) => part.x && between(part.x[frame], part.x[next], share)),
    y: lines.map((part) => (part.y ? between(part.y[frame], part.y[next], share) : [])),
    fields: fields.map((part) => part.trace),
    z: fields.map((part) => part.z?.[frame] ?? []),
    ghosts: replay.ghosts.map((ghost) => ghost.trace),
    visible: replay.ghosts.map((ghost) => ghost.frame < position),
  };
}

const PHONE = 480;

/**
 * Whether so many pixels across are those of a phone; none are those of a chart that is not on the screen yet.
 * @param {number} width
 */
export function isNarrow(width) {
  return width > 0 && width < PHONE;
}

/**
 * A figure as it is drawn so many pixels wide, and how many times as high as elsewhere.
 * @param {Figure} figure
 * @param {number} width
 * @returns {{figure: Figure, taller: number}}
 */
export function fitted(figure, width) {
  if (!figure.narrow || !isNarrow(width)) return { figure, taller: 1 };
  return { figure: { ...figure, layout: { ...figure.layout, ...figure.narrow.layout } }, taller: figure.narrow.taller };
}

/**
 * A figure as it is at one moment of its replay. While it plays every ghost is drawn, to be shown when its time comes.
 * @param {Figure} figure
 * @param {number | undefined} position
 * @param {boolean} [playing]
 * @returns {Figure}
 */
export function framed(figure, position, playing = false) {
  if (!figure.replay || position === undefined) return figure;
  const change = atFrame(figure.replay, position);
  const data = figure.data.slice();
  change.traces.forEach((trace, i) => {
    data[trace] = { ...data[trace], y: change.y[i], x: change.x[i] ?? data[trace].x };
  });
  change.fields.forEach((trace, i) => { data[trace] = { ...data[trace], z: change.z[i] }; });
  change.ghosts.forEach((trace, i) => { data[trace] = { ...data[trace], visible: playing || change.visible[i] }; });
  return { ...figure, data };
}

/**
 * A line through points as the path of an SVG; it breaks where a number is missing.
 * @param {ArrayLike<number | null>} x
 * @param {ArrayLike<number | null>} y
 * @param {(value: number) => number} across from a value to a pixel
 * @param {(value: number) => number} up
 */
export function pathOf(x, y, across, up) {
  let path = "", pen = "M";
  for (let i = 0; i < y.length; i++) {
    const [here, high] = [x[i], y[i]];
    if (here === null || high === null || !Number.isFinite(up(high))) {
      pen = "M";
      continue;
    }
    path += `${pen}${across(here).toFixed(1)},${up(high).toFixed(1)}`;
    pen = "L";
  }
  return path;
}

/**
 * How many seconds a replay of that many frames takes.
 * @param {number} frames the last frame's number
 */
export function seconds(frames) {
  return Math.min(5, Math.max(1.5, frames * 0.3));
}

/**
 * The moment to show `elapsed` seconds after the first frame.
 * @param {number} elapsed
 * @param {number} last the last frame's number
 */
export function frameAt(elapsed, last) {
  return Math.min(last, (elapsed / seconds(last)) * last);
}

/**
 * Points after one has been added, moved or deleted: pressing on none adds one, on one and dragging moves it, on one
 * and letting go deletes it.
 * @param {Pair[]} points
 * @param {number} index the point that was pressed on, or -1
 * @param {boolean} moved whether the pointer was dragged
 * @param {Pair} at where it was let go
 * @returns {Pair[]}
 */
export function edited(points, index, moved, at) {
  const round = (/** @type {number} */ value) => Number(value.toPrecision(4));
  const here = [round(at[0]), round(at[1])];
  if (index < 0) return [...points, here];
  const rest = points.slice();
  if (moved) rest[index] = [...here, ...points[index].slice(2)];
  else rest.splice(index, 1);
  return rest;
}

/**
 * The points that the next press changes: those that were sent last, until the server shows them or time is up. It may
 * still be showing what was before.
 * @param {Pair[]} shown as the server has them
 * @param {{points: Pair[], until: number} | null | undefined} sent
 * @param {number} now in milliseconds, like `until`
 */
export function current(shown, sent, now) {
  if (!sent || now > sent.until) return shown;
  const isAnswer = shown.length === sent.points.length
    && shown.every(([x, y], i) => alike(x, sent.points[i][0]) && alike(y, sent.points[i][1]));
  return isAnswer ? shown : sent.points;
}

/** @param {number} a @param {number} b as far as a link writes them out */
const alike = (a, b) => Math.abs(a - b) <= 1e-3 * Math.max(Math.abs(a), Math.abs(b));

/**
 * What a chart shows as a table of text: a line for each point, with the name of its trace. Traces that only repeat
 * another (no legend, no hover) are left out.
 * @param {Trace[]} traces as Plotly has read them: plain or typed arrays
 */
export function csv(traces) {
  const cell = (/** @type {unknown} */ value) => {
    const text = value === null || value === undefined || Number.isNaN(value) ? "" : String(value);
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const shown = traces.filter((trace) => trace.visible !== false && !["skip", "none"].includes(trace.hoverinfo));
  const isField = shown.length > 0 && shown.every((trace) => trace.type === "heatmap");
  const lines = [isField ? "x,y,value" : "trace,x,y"];
  for (const trace of shown) {
    const [x, y] = [trace.x ?? [], trace.y ?? []];
    const rows = trace.type === "heatmap" ? trace.z : null;
    if (rows) {
      for (let k = 0; k < rows.length; k++) {
        for (let i = 0; i < rows[k].length; i++) lines.push([x[i], y[k], rows[k][i]].map(cell).join(","));
      }
    } else {
      for (let i = 0; i < y.length; i++) lines.push([trace.name, x[i], y[i]].map(cell).join(","));
    }
  }
  return lines.join("\n") + "\n";
}

/**
 * The lines and points of a figure as the inside of an SVG of that size: what stands in a chart's place for the second
 * that Plotly takes to load. Axes are left to Plotly.
 * @param {Figure} figure
 * @param {number} width
 * @param {number} height
 */
export function sketch(figure, width, height) {
  const { layout } = figure;
  const { l = 40, r = 10, t = 48, b = 42 } = layout.margin ?? {};
  const scale = (/** @type {string} */ name, /** @type {ArrayLike<number>[]} */ lists, /** @type {number} */ from, /** @type {number} */ to) => {
    const { domain: [low, high] = [0, 1], range, type } = layout[name.replace(/^[xy]/, "$&axis")] ?? {};
    const along = type === "log" ? Math.log10 : (/** @type {number} */ value) => value;
    const known = lists.flatMap((list) => Array.from(list, along)).filter(Number.isFinite);
    const [least, most] = range ?? [Math.min(...known), Math.max(...known)];
    const [start, end] = [from + low * (to - from), from + high * (to - from)];
    return (/** @type {number} */ value) => start + ((along(value) - least) / (most - least || 1)) * (end - start);
  };
  const shown = figure.data.filter((trace) => (trace.type ?? "scatter") === "scatter" && trace.visible !== false)
    .map((trace) => ({ trace, x: numbers(trace.x), y: numbers(trace.y), axes: [trace.xaxis ?? "x", trace.yaxis ?? "y"] }));
  return shown.map(({ trace, x, y, axes: [across, up] }) => {
    const px = scale(across, shown.filter((other) => other.axes[0] === across).map((other) => other.x), l, width - r);
    const py = scale(up, shown.filter((other) => other.axes[1] === up).map((other) => other.y), height - b, t);
    const opacity = trace.opacity ?? 1;
    if (String(trace.mode).includes("markers")) {
      const radius = Number(trace.marker?.size ?? 6) / 2;
      return Array.from(y, (value, i) => Number.isFinite(py(value)) && Number.isFinite(px(x[i]))
        ? `<circle cx="${px(x[i]).toFixed(1)}" cy="${py(value).toFixed(1)}" r="${radius}" fill="${trace.marker?.color}" opacity="${opacity}"/>` : "").join("");
    }
    const dashes = trace.line?.dash === "dash" ? "9 9" : trace.line?.dash === "dot" ? "3 3" : "none";
    return `<path d="${pathOf(x, y, px, py)}" fill="none" stroke="${trace.line?.color}" stroke-width="${Number(trace.line?.width ?? 2)}" stroke-dasharray="${dashes}" opacity="${opacity}"/>`;
  }).join("");
}

/**
 * Whether a chart is in sight after all that an observer tells at once: a busy browser tells several moments together.
 * @param {{isIntersecting: boolean}[]} moments
 * @returns {boolean}
 */
export function isInSight(moments) {
  return moments[moments.length - 1].isIntersecting;
}

/**
 * An array as it travels: plain, or base64 of 32-bit floats.
 * @param {any} values
 * @returns {ArrayLike<number>}
 */
export function numbers(values) {
  if (!values?.bdata) return values ?? [];
  const bytes = Uint8Array.from(atob(values.bdata), (letter) => letter.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}
