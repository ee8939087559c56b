// @ts-check
// One Plotly chart that is updated in place. st.plotly_chart mounts a new one at every change of its data, which
// loses the reader's zoom, hover and fullscreen; Plotly.react on the same element keeps all three.
// What is decided stands in chart_state.js; this file holds the element, the listeners and the clock.
import { atFrame, csv, current, edited, fitted, frameAt, framed, held, home, isInSight, isNarrow, near, pathOf, plain, seconds, sketch, themed, within } from "./chart_state.js";

/**
 * What the server sends: ChartData in live_chart.py.
 * @typedef {import("./chart_state.js").Figure} Figure
 * @typedef {import("./chart_state.js").Point} Point
 * @typedef {import("./chart_state.js").Pair} Pair
 * @typedef {{figure: string, plotly: string, name: string, alt: string, revision: string, height: number,
 *   picks: boolean, drags: boolean, edits: Pair[] | null}} ChartData
 * @typedef {{figure: Figure, source: string, revision: string, height: number, picks: boolean, drags: boolean, edits: Pair[] | null}} Latest
 * @typedef {(name: string, value: unknown) => void} Send
 * @typedef {HTMLElement & {
 *   latest: Latest, send: Send, paint: (plotly?: any) => Promise<void>, stop?: () => void, answered?: () => void,
 *   on: (name: string, listener: (event: any) => void) => void, data: any[], _fullLayout: any,
 *   frame?: number, frames?: number, playing?: boolean, taken?: boolean, drawn?: string, listening?: boolean, watching?: boolean, dragging?: boolean, isNear?: boolean, isLate?: boolean,
 *   held?: Point | null, drawing?: number | null, sent?: {points: Pair[], until: number}}} Chart
 */

const page = /** @type {any} */ (window);

/** @param {string} url @returns {Promise<any>} */
function loadPlotly(url) {
  if (page.Plotly) return Promise.resolve(page.Plotly);
  page.__labPlotly ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = url;
    script.onload = () => resolve(page.Plotly);
    script.onerror = () => reject(new Error("Plotly could not be loaded from " + url));
    document.head.append(script);
  });
  return page.__labPlotly;
}

/** The page's own colors, from Streamlit's variables. @param {HTMLElement} host */
function theme(host) {
  const style = getComputedStyle(host);
  const text = style.getPropertyValue("--st-text-color") || "#31333f";
  const probe = document.createElement("span");
  probe.style.color = `color-mix(in srgb, ${text} 14%, transparent)`;
  host.append(probe);
  const grid = plain(getComputedStyle(probe).color);
  probe.remove();
  return {
    text,
    grid,
    background: style.getPropertyValue("--st-background-color") || "#ffffff",
    font: style.getPropertyValue("--st-font") || "sans-serif",
    fullscreen: document.fullscreenElement === host,
  };
}

const FULLSCREEN = {
  name: "fullscreen",
  title: "Fullscreen",
  icon: { width: 24, height: 24, path: "M4 9V4h5v2H6v3H4zm11-5h5v5h-2V6h-3V4zM4 15h2v3h3v2H4v-5zm14 3v-3h2v5h-5v-2h3z" },
  click: (/** @type {HTMLElement} */ chart) =>
    document.fullscreenElement ? document.exitFullscreen() : chart.parentElement?.requestFullscreen(),
};

const DOWN = "M11 3h2v9h3l-4 5-4-5h3V3zM5 19h14v2H5v-2z";

/** The chart as a picture, on the page's own background. @param {"svg" | "png"} format */
function picture(format) {
  return {
    name: `as ${format}`,
    title: `Download as ${format.toUpperCase()}`,
    icon: { width: 24, height: 24, path: DOWN },
    click: (/** @type {Chart} */ chart) => {
      const host = /** @type {HTMLElement} */ (chart.parentElement);
      const layout = { .../** @type {any} */ (chart).layout, paper_bgcolor: theme(host).background };
      const size = { width: chart.clientWidth, height: chart.clientHeight, scale: format === "png" ? 2 : 1 };
      return page.Plotly.downloadImage({ data: chart.data, layout }, { format, filename: host.dataset.name, ...size });
    },
  };
}

// Made once: Plotly.react draws everything anew, and forgets the reader's zoom, where its buttons are other objects.
const AS_PNG = picture("png");
const AS_SVG = picture("svg");
const AS_CSV = {
  name: "as csv",
  title: "Download the data as CSV",
  icon: { width: 24, height: 24, path: "M4 4h16v16H4V4zm2 4v3h5V8H6zm7 0v3h5V8h-5zm-7 5v5h5v-5H6zm7 0v5h5v-5h-5z" },
  click: (/** @type {any} */ chart) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csv(chart._fullData)], { type: "text/csv" }));
    link.download = `${chart.parentElement.dataset.name}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  },
};

/** @template {HTMLElement} T @param {HTMLElement} host @param {string} selector */
function part(host, selector) {
  return /** @type {T} */ (host.querySelector(selector));
}

// Playing a figure's `replay` asks the server nothing. Plotly needs 15 ms to draw a picture anew, a good part of what
// there is between two; so while it plays, the lines that move are set by themselves, and Plotly draws the last moment.
const BETWEEN_FRAMES = 40;  // milliseconds

/** The drawn parts of a trace, by the class that Plotly gives them. @param {Chart} chart @param {number} trace */
function drawn(chart, trace) {
  return chart.querySelector(`.scatterlayer .trace${/** @type {any} */ (chart)._fullData[trace]?.uid}`);
}

/** Whether all that moves could be moved without Plotly. @param {Chart} chart @param {HTMLElement} host @param {number} position */
function move(chart, host, position) {
  const { replay } = chart.latest.figure;
  const { _fullData, _fullLayout } = /** @type {any} */ (chart);
  if (!replay || !_fullData) return false;
  const change = atFrame(replay, position);
  if (change.fields.length && Math.floor(position + 1e-6) !== Math.floor((chart.frame ?? -1) + 1e-6)) return false;
  for (let i = 0; i < change.traces.length; i++) {
    const trace = _fullData[change.traces[i]], group = drawn(chart, change.traces[i]);
    if (!trace || !group) return false;
    const axis = (/** @type {string} */ id) => _fullLayout[id.replace(/^(.)/, "$1axis")];
    const [across, up] = [axis(trace.xaxis).c2p, axis(trace.yaxis).c2p];
    const x = change.x[i] ?? trace.x, y = change.y[i];
    group.querySelectorAll(".js-line").forEach((line, k) => {  // Plotly gives each unbroken part one of its own
      line.setAttribute("d", k ? "" : pathOf(x, y, across, up));
    });
    group.querySelectorAll(".points .point").forEach((point, k) => {
      point.setAttribute("transform", `translate(${across(x[k])},${up(y[k] ?? NaN)})`);
    });
  }
  change.ghosts.forEach((trace, i) => {
    const group = /** @type {SVGElement | null} */ (drawn(chart, trace));
    if (group) group.style.display = change.visible[i] ? "" : "none";
  });
  chart.frame = position;
  say(chart, host);
  countFrame(chart);
  return true;
}

/** @param {Chart} chart */
function countFrame(chart) {
  chart.frames = (chart.frames || 0) + 1;
  chart.dataset.frames = String(chart.frames);
}

/** @param {Chart} chart @param {HTMLElement} host @param {number} position */
function showFrame(chart, host, position) {
  const { replay } = chart.latest.figure;
  if (!replay) return undefined;
  const change = atFrame(replay, position);
  chart.frame = position;
  say(chart, host);
  const traces = change.traces.concat(change.ghosts);
  const x = change.traces.map((trace, i) => change.x[i] ?? chart.data[trace].x);
  const y = change.y.slice();
  for (const trace of change.ghosts) {
    x.push(chart.data[trace].x);
    y.push(chart.data[trace].y);
  }
  const visible = change.traces.map(() => true).concat(change.visible);
  countFrame(chart);
  for (const trace of change.ghosts) {
    const group = /** @type {SVGElement | null} */ (drawn(chart, trace));
    if (group) group.style.display = "";
  }
  const fields = change.fields.length && page.Plotly.restyle(chart, { z: change.z }, change.fields);
  return Promise.all([fields, traces.length && page.Plotly.restyle(chart, { x, y, visible }, traces)]);
}

/** What is shown, in words, and where on the slider. @param {Chart} chart @param {HTMLElement} host */
function say(chart, host) {
  const { replay } = chart.latest.figure;
  if (!replay || chart.frame === undefined) return;
  /** @type {HTMLInputElement} */ (part(host, ".replay input")).value = String(Math.floor(chart.frame + 1e-6));
  part(host, ".replay output").textContent = atFrame(replay, chart.frame).text;
}

/** @param {Chart} chart */
function lastFrame(chart) {
  return (chart.latest.figure.replay?.steps.length ?? 1) - 1;
}

/** @param {Chart} chart @param {HTMLElement} host */
function play(chart, host) {
  if (chart.playing) return pause(chart, host);
  const last = lastFrame(chart);
  const from = (chart.frame ?? 0) >= last ? 0 : chart.frame ?? 0;
  const began = performance.now() - (from / Math.max(last, 1)) * seconds(last) * 1000;
  const button = part(host, ".replay button");
  button.textContent = "❚❚";
  button.setAttribute("aria-label", "Pause the replay");
  chart.playing = true;
  chart.frame = from;
  chart.paint().then(() => move(chart, host, chart.frame ?? 0));  // with every ghost, to be shown in its time
  let shown = -Infinity;
  const next = async (/** @type {number} */ now) => {
    if (!chart.playing || !chart.isConnected) return;
    const end = lastFrame(chart);  // the figure may have been replaced while it plays
    const position = frameAt(Math.max(0, now - began) / 1000, end);
    if (now - shown >= BETWEEN_FRAMES || position >= end) {
      shown = now;
      if (position >= end || !move(chart, host, position)) await showFrame(chart, host, position);
    }
    if (position >= end) pause(chart, host);
    else requestAnimationFrame(next);
  };
  requestAnimationFrame(next);
}

/** @param {Chart} chart @param {HTMLElement} host */
function pause(chart, host) {
  chart.playing = false;
  const button = part(host, ".replay button");
  button.textContent = "▶";
  button.setAttribute("aria-label", "Play the replay");
}

/** Whether the reader has asked for less motion. */
function isStill() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}

/** Where the pointer is in a chart: in pixels of the plot, and whether inside it. @param {Chart} chart @param {PointerEvent} event */
function place(chart, event) {
  const box = chart.getBoundingClientRect();
  const { xaxis, yaxis } = chart._fullLayout;
  const px = event.clientX - box.left - xaxis._offset;
  const py = event.clientY - box.top - yaxis._offset;
  const inside = px >= 0 && py >= 0 && px <= xaxis._length && py <= yaxis._length;
  return { px, py, inside, x: xaxis.p2d(px), y: yaxis.p2d(py), xaxis, yaxis };
}

/**
 * Points placed by hand: click to add, drag to move, click a point to delete it.
 * @param {Chart} chart @param {AbortSignal} signal
 */
function editPoints(chart, signal) {
  /** @type {{index: number, px: number, py: number} | null} */
  let pressed = null;
  chart.addEventListener("pointerdown", (event) => {
    if (!chart.latest.edits || event.button !== 0 || !chart._fullLayout) return;
    const at = place(chart, event);
    if (!at.inside) return;
    const index = current(chart.latest.edits, chart.sent, Date.now()).findIndex(
      ([x, y]) => Math.hypot(at.xaxis.d2p(x) - at.px, at.yaxis.d2p(y) - at.py) < 12,
    );
    pressed = { index, px: at.px, py: at.py };
    event.preventDefault();
    event.stopPropagation();
  }, { capture: true, signal });
  window.addEventListener("pointerup", (event) => {
    if (!pressed || !chart.latest.edits) return;
    const { index, px, py } = pressed;
    pressed = null;
    const at = place(chart, event);
    const moved = Math.hypot(at.px - px, at.py - py) > 5;
    const points = edited(current(chart.latest.edits, chart.sent, Date.now()), index, moved, [at.x, at.y]);
    chart.sent = { points, until: Date.now() + PATIENCE };
    chart.send("points", points);
  }, { signal });
}

const PATIENCE = 2000;  // milliseconds after which an answer is no longer waited for

// A point moved by hand: pressing anywhere takes it there, and it follows the pointer. The server is asked for a new
// figure only when it has answered the last time, so that a slow one is never interrupted by the next question.
/** @param {Chart} chart @param {AbortSignal} signal */
function dragHandle(chart, signal) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let waiting;
  /** @type {Point} */
  let asked = { x: NaN, y: NaN };
  const answer = () => home(chart.latest.figure);
  /** @param {Point} told */
  const goOn = (told) => {
    clearTimeout(waiting);
    waiting = undefined;
    if (chart.held && !near(chart.held, told)) ask();
    else if (!chart.dragging) {
      chart.held = null;
      chart.paint();
    }
  };
  const ask = () => {
    if (waiting || !chart.held) return;
    asked = chart.held;
    waiting = setTimeout(() => goOn(asked), PATIENCE);
    chart.send("pick", { x: asked.x, y: asked.y, task: null });
  };
  /** @param {PointerEvent} event */
  const follow = (event) => {
    chart.held = within(chart.latest.figure, place(chart, event));
    chart.drawing ??= requestAnimationFrame(() => {
      chart.drawing = null;
      chart.paint();
    });
    if (!near(chart.held, waiting ? asked : answer())) ask();
  };
  chart.addEventListener("pointerdown", (event) => {
    const onButton = event.target instanceof Element && event.target.closest(".modebar");
    if (!chart.latest.drags || !chart._fullLayout || event.button !== 0) return;
    if (!place(chart, event).inside || onButton) return;
    event.preventDefault();
    event.stopPropagation();
    chart.setPointerCapture(event.pointerId);
    chart.dragging = true;
    follow(event);
  }, { capture: true, signal });
  chart.addEventListener("pointermove", (event) => { if (chart.dragging) follow(event); }, { signal });
  for (const end of /** @type {const} */ (["pointerup", "pointercancel"])) {
    chart.addEventListener(end, () => {
      chart.dragging = false;
      if (!waiting && chart.held) goOn(answer());
    }, { signal });
  }
  chart.answered = () => {
    if (waiting && near(answer(), asked)) goOn(answer());
  };
}

/** @param {{parentElement: HTMLElement, data: ChartData, setTriggerValue: Send}} component */
export default function ({ parentElement, data, setTriggerValue }) {
  const host = part(parentElement, ".live-chart");
  const chart = /** @type {Chart} */ (host.firstElementChild);
  host.dataset.name = data.name;
  chart.setAttribute("aria-label", data.alt);
  /** @type {Figure} */
  const figure = JSON.parse(data.figure);
  const fit = () => {
    const { figure, taller } = fitted(chart.latest.figure, chart.clientWidth);
    const height = `${chart.latest.height * taller}px`;
    if (host.style.height !== height) host.style.height = height;
    return figure;
  };
  const paint = async (Plotly = page.Plotly) => {
    if (!chart.isConnected) return;
    const shown = framed(held(fit(), chart.held), chart.frame, chart.playing);
    await Plotly.react(chart, shown.data, { ...themed(shown.layout, theme(host)), uirevision: chart.latest.revision }, {
      displaylogo: false,
      responsive: true,
      displayModeBar: "hover",
      showSendToCloud: false, // data stay where they are
      plotlyServerURL: "",
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "toImage"],
      modeBarButtonsToAdd: [AS_PNG, AS_SVG, AS_CSV, FULLSCREEN],
    });
  };
  const draw = async () => {
    if (!page.Plotly && !chart.hasChildNodes()) {
      chart.innerHTML = `<svg class="sketch" aria-hidden="true">${sketch(fit(), chart.clientWidth, chart.clientHeight)}</svg>`;
    }
    const Plotly = await loadPlotly(data.plotly);
    if (!chart.isConnected) return;
    chart.isLate = chart.isNear === false && chart.drawn !== undefined;  // out of sight: drawn when it comes near
    if (chart.isLate) return;
    chart.querySelector(".sketch")?.remove();
    chart.answered?.();
    const { replay } = chart.latest.figure;  // not this call's: the timer below draws with the first call's function
    const isNew = chart.drawn !== chart.latest.source;
    chart.drawn = chart.latest.source;
    if (!replay?.autoplay || chart.taken) pause(chart, host);
    if (replay) {
      const starts = replay.autoplay && isNew && !chart.taken && !chart.playing && !isStill();
      chart.frame = starts ? 0 : Math.min(chart.frame ?? Infinity, lastFrame(chart));
      if (starts) play(chart, host);
      else {
        await paint(Plotly);
        if (chart.playing) move(chart, host, chart.frame);
        say(chart, host);
      }
    } else {
      await paint(Plotly);
    }
    if (!chart.listening) {
      chart.listening = true;
      chart.on("plotly_click", ({ points: [point] }) => {
        const task = point.customdata ?? point.data.customdata?.[0];  // of the point, or of its whole trace
        if (chart.latest.picks && !chart.latest.drags) {
          chart.send("pick", { x: point.x, y: point.y, task: Number.isInteger(task) ? task : null });
        }
      });
    }
    chart.dataset.updates = String(Number(chart.dataset.updates || 0) + 1);
  };
  chart.paint = paint;
  if (chart.latest && chart.latest.revision !== data.revision) {
    chart.frame = undefined;
    chart.taken = false;
  }
  chart.latest = { figure, source: data.figure, revision: data.revision, height: data.height, picks: data.picks, edits: data.edits, drags: data.drags };
  chart.send = setTriggerValue;
  chart.style.touchAction = data.drags ? "none" : "";  // a finger moves the handle, not the page
  host.classList.toggle("edited", data.edits !== null);  // the next click places a point
  part(host, ".replay").hidden = !figure.replay;
  if (figure.replay) {
    const range = /** @type {HTMLInputElement} */ (part(host, ".replay input"));
    range.max = String(lastFrame(chart));
    range.oninput = () => {
      chart.taken = true;
      pause(chart, host);
      showFrame(chart, host, Number(range.value));
    };
    part(host, ".replay button").onclick = () => {
      chart.taken = chart.playing === true;  // who pauses wants to look; who plays wants it to go on
      play(chart, host);
    };
  }
  fit();
  draw();

  if (!chart.watching) {
    chart.watching = true;
    chart.dataset.mounts = String(Number(chart.dataset.mounts || 0) + 1);
    const listeners = new AbortController();
    editPoints(chart, listeners.signal);
    dragHandle(chart, listeners.signal);
    let seen = "";
    const look = () => {
      const now = getComputedStyle(host).getPropertyValue("--st-text-color") + (document.fullscreenElement === host);
      if (seen && now !== seen) draw();
      seen = now;
    };
    const timer = setInterval(look, 250);
    const sight = new IntersectionObserver((moments) => {
      chart.isNear = isInSight(moments);
      if (chart.isNear && chart.isLate) draw();
    }, { rootMargin: "200px" });
    sight.observe(host);
    // Plotly follows the window alone: a column that grows beside it, or a scroll bar that comes, it would not see.
    const size = new ResizeObserver(() => {
      const { width } = chart._fullLayout ?? {};
      if (!width || !chart.clientWidth || Math.abs(chart.clientWidth - width) <= 1) return;
      fit();
      if (chart.latest.figure.narrow && isNarrow(width) !== isNarrow(chart.clientWidth)) draw();
      page.Plotly.Plots.resize(chart);
    });
    size.observe(chart);
    chart.stop = () => {
      clearInterval(timer);
      sight.disconnect();
      size.disconnect();
      listeners.abort();
      chart.watching = chart.listening = false;
      if (page.Plotly) page.Plotly.purge(chart);
    };
  }
  return () => {
    if (!chart.isConnected) chart.stop?.();
  };
}
