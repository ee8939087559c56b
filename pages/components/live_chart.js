// One Plotly chart that is updated in place. st.plotly_chart mounts a new one at every change of its data, which
// loses the reader's zoom, hover and fullscreen; Plotly.react on the same element keeps all three.

function loadPlotly(url) {
  if (window.Plotly) return Promise.resolve(window.Plotly);
  window.__labPlotly ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = url;
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => reject(new Error("Plotly could not be loaded from " + url));
    document.head.append(script);
  });
  return window.__labPlotly;
}

function themed(layout, host) {
  const style = getComputedStyle(host);
  const text = style.getPropertyValue("--st-text-color") || "#31333f";
  const grid = `color-mix(in srgb, ${text} 14%, transparent)`;
  const probe = document.createElement("span");
  probe.style.color = grid;
  host.append(probe);
  const gridColor = getComputedStyle(probe).color.replace(/^color\(srgb (.*?) (.*?) (.*?) \/ (.*)\)$/,
    (_, r, g, b, a) => `rgba(${[r, g, b].map((v) => Math.round(v * 255)).join(",")},${a})`);
  probe.remove();
  const background = style.getPropertyValue("--st-background-color") || "#ffffff";
  const full = {
    ...layout,
    paper_bgcolor: document.fullscreenElement === host ? background : "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: style.getPropertyValue("--st-font") || "sans-serif", size: 13, color: text },
    hoverlabel: { bgcolor: background, bordercolor: gridColor, font: { color: text } },
    autosize: true,
  };
  for (const key of Object.keys(full)) {
    if (/^[xy]axis/.test(key)) full[key] = { gridcolor: gridColor, linecolor: gridColor, automargin: true, ...full[key] };
  }
  return full;
}

const FULLSCREEN = {
  name: "fullscreen",
  title: "Fullscreen",
  icon: { width: 24, height: 24, path: "M4 9V4h5v2H6v3H4zm11-5h5v5h-2V6h-3V4zM4 15h2v3h3v2H4v-5zm14 3v-3h2v5h-5v-2h3z" },
  click: (chart) => (document.fullscreenElement ? document.exitFullscreen() : chart.parentElement.requestFullscreen()),
};

// Playing a figure's `replay`: each frame only restyles the traces that move, and asks the server nothing.
function showStep(chart, host, step) {
  const { replay } = chart.latest.figure;
  const bar = host.querySelector(".replay");
  chart.step = step;
  bar.querySelector("input").value = step;
  bar.querySelector("output").textContent = `step ${step} of ${replay.steps} · ${replay.labels[step]}`;
  const traces = replay.moving.map((part) => part.trace).concat(replay.ghosts.map((ghost) => ghost.trace));
  const x = replay.moving.map((part) => (part.x ? part.x[step] : chart.data[part.trace].x));
  const y = replay.moving.map((part) => part.y[step]);
  for (const ghost of replay.ghosts) {
    x.push(chart.data[ghost.trace].x);
    y.push(chart.data[ghost.trace].y);
  }
  const visible = replay.moving.map(() => true).concat(replay.ghosts.map((ghost) => ghost.step < step));
  chart.frames = (chart.frames || 0) + 1;
  chart.dataset.frames = chart.frames;
  return window.Plotly.restyle(chart, { x, y, visible }, traces);
}

function play(chart, host) {
  const { steps } = chart.latest.figure.replay;
  const button = host.querySelector(".replay button");
  if (chart.playing) return pause(chart, host);
  const seconds = Math.min(5, Math.max(1.5, steps * 0.3));
  const from = chart.step >= steps ? 0 : chart.step;
  const began = performance.now() - (from / Math.max(steps, 1)) * seconds * 1000;
  button.textContent = "❚❚";
  button.setAttribute("aria-label", "Pause");
  chart.playing = true;
  const next = async (now) => {
    if (!chart.playing || !chart.isConnected) return;
    const step = Math.min(steps, Math.floor(((now - began) / 1000 / seconds) * steps + 1e-6));
    if (step !== chart.step || step === 0) await showStep(chart, host, step);
    if (step >= steps) return pause(chart, host);
    requestAnimationFrame(next);
  };
  requestAnimationFrame(next);
}

function pause(chart, host) {
  chart.playing = false;
  const button = host.querySelector(".replay button");
  button.textContent = "▶";
  button.setAttribute("aria-label", "Play");
}

// Where the pointer is in a chart: in pixels of the plot, and whether inside it.
function place(chart, event) {
  const box = chart.getBoundingClientRect();
  const { xaxis, yaxis } = chart._fullLayout;
  const px = event.clientX - box.left - xaxis._offset;
  const py = event.clientY - box.top - yaxis._offset;
  const inside = px >= 0 && py >= 0 && px <= xaxis._length && py <= yaxis._length;
  return { px, py, inside, x: xaxis.p2d(px), y: yaxis.p2d(py), xaxis, yaxis };
}

// Points placed by hand: click to add, drag to move, click a point to delete it.
function editPoints(chart, send) {
  const round = (value) => Number(value.toPrecision(4));
  let held = null;
  chart.addEventListener("pointerdown", (event) => {
    if (!chart.latest.edits || event.button !== 0) return;
    const at = place(chart, event);
    if (!at.inside) return;
    const points = chart.latest.edits;
    const near = points.findIndex(([x, y]) => Math.hypot(at.xaxis.d2p(x) - at.px, at.yaxis.d2p(y) - at.py) < 12);
    held = { near, start: at, moved: false };
    event.preventDefault();
    event.stopPropagation();
  }, true);
  window.addEventListener("pointerup", (event) => {
    if (!held || !chart.latest.edits) return;
    const { near, start } = held;
    held = null;
    const at = place(chart, event);
    const moved = Math.hypot(at.px - start.px, at.py - start.py) > 5;
    const points = chart.latest.edits.slice();
    const here = [round(at.x), round(at.y)];
    if (near < 0) points.push(here);
    else if (moved) points[near] = here;
    else points.splice(near, 1);
    send(points);
  });
}

// A point moved by hand: pressing anywhere takes it there, and it follows the pointer. The server is asked for a new
// figure only when it has answered the last time, so that a slow one is never interrupted by the next question.
const PATIENCE = 2000;  // milliseconds after which an answer is no longer waited for

function dragHandle(chart) {
  let waiting = null;
  let asked = null;
  const answer = () => {
    const handle = chart.latest.figure.data.find((trace) => trace.meta === "handle");
    return { x: handle.x[0], y: handle.y[0] };
  };
  const near = (one, other) => Math.hypot(one.x - other.x, one.y - other.y) < 0.01;  // the server rounds
  const goOn = (told) => {
    waiting = clearTimeout(waiting);
    if (!near(chart.held, told)) ask();
    else if (!chart.dragging) {
      chart.held = null;
      chart.paint();
    }
  };
  const ask = () => {
    if (waiting) return;
    asked = chart.held;
    waiting = setTimeout(() => goOn(asked), PATIENCE);
    chart.send("pick", { x: asked.x, y: asked.y, curve: -1 });
  };
  // No further than the figure's own range, which the server keeps to as well: the reader may have zoomed out.
  const along = (name, value) => {
    const [low, high] = chart.latest.figure.layout[name].range;
    return Math.min(high, Math.max(low, value));
  };
  const follow = (event) => {
    const { x, y } = place(chart, event);
    chart.held = { x: along("xaxis", x), y: along("yaxis", y) };
    chart.frame ??= requestAnimationFrame(() => {
      chart.frame = null;
      chart.paint();
    });
    if (!near(chart.held, waiting ? asked : answer())) ask();
  };
  chart.addEventListener("pointerdown", (event) => {
    if (!chart.latest.drags || event.button !== 0 || !place(chart, event).inside || event.target.closest(".modebar")) return;
    event.preventDefault();
    event.stopPropagation();
    chart.setPointerCapture(event.pointerId);
    chart.dragging = true;
    follow(event);
  }, true);
  chart.addEventListener("pointermove", (event) => { if (chart.dragging) follow(event); });
  for (const end of ["pointerup", "pointercancel"]) {
    chart.addEventListener(end, () => {
      chart.dragging = false;
      if (!waiting && chart.held) goOn(answer());
    });
  }
  chart.answered = () => {
    if (waiting && near(answer(), asked)) goOn(answer());
  };
}

// A figure with its handle where the pointer holds it, and the arrows that start from the handle with it.
function held(figure, at) {
  const index = figure.data.findIndex((trace) => trace.meta === "handle");
  if (!at || index < 0) return figure;
  const home = figure.data[index];
  const [dx, dy] = [at.x - home.x[0], at.y - home.y[0]];
  const data = figure.data.with(index, { ...home, x: [at.x], y: [at.y] });
  const annotations = (figure.layout.annotations || []).map((arrow) => ({
    ...arrow, x: arrow.x + dx, y: arrow.y + dy, ax: arrow.ax + dx, ay: arrow.ay + dy,
  }));
  return { ...figure, data, layout: { ...figure.layout, annotations } };
}

export default function ({ parentElement, data, setTriggerValue }) {
  const host = parentElement.querySelector(".live-chart");
  const chart = host.firstElementChild;
  host.dataset.name = data.name;
  chart.setAttribute("aria-label", data.alt);
  const figure = JSON.parse(data.figure);
  const paint = async (Plotly = window.Plotly) => {
    if (!chart.isConnected) return;
    const shown = held(chart.latest.figure, chart.held);
    await Plotly.react(chart, shown.data, { ...themed(shown.layout, host), uirevision: chart.latest.revision }, {
      displaylogo: false,
      responsive: true,
      displayModeBar: "hover",
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
      modeBarButtonsToAdd: [FULLSCREEN],
    });
  };
  const draw = async () => {
    const Plotly = await loadPlotly(data.plotly);
    if (!chart.isConnected) return;
    const { figure } = chart.latest;
    chart.answered?.();
    pause(chart, host);
    await paint(Plotly);
    if (figure.replay) await showStep(chart, host, Math.min(chart.step ?? figure.replay.steps, figure.replay.steps));
    if (!chart.listening) {
      chart.listening = true;
      chart.on("plotly_click", ({ points: [point] }) => {
        const { picks, drags } = chart.latest;
        if (picks && !drags) chart.send("pick", { x: point.x, y: point.y, curve: point.curveNumber });
      });
      editPoints(chart, (points) => chart.send("points", points));
      dragHandle(chart);
    }
    chart.dataset.updates = Number(chart.dataset.updates || 0) + 1;
  };
  chart.paint = paint;
  if (chart.latest && chart.latest.revision !== data.revision) chart.step = undefined;
  chart.latest = { figure, revision: data.revision, picks: data.picks, edits: data.edits, drags: data.drags };
  chart.send = setTriggerValue;
  chart.style.touchAction = data.drags ? "none" : "";  // a finger moves the handle, not the page
  const bar = host.querySelector(".replay");
  bar.hidden = !figure.replay;
  if (figure.replay) {
    const range = bar.querySelector("input");
    range.max = figure.replay.steps;
    range.oninput = () => { pause(chart, host); showStep(chart, host, Number(range.value)); };
    bar.querySelector("button").onclick = () => play(chart, host);
  }
  const height = `${data.height}px`;
  if (host.style.height !== height) host.style.height = height;
  draw();

  if (!chart.watching) {
    chart.watching = true;
    chart.dataset.mounts = Number(chart.dataset.mounts || 0) + 1;
    let seen = "";
    const look = () => {
      const now = getComputedStyle(host).getPropertyValue("--st-text-color") + (document.fullscreenElement === host);
      if (seen && now !== seen) draw();
      seen = now;
    };
    const timer = setInterval(look, 250);
    chart.stop = () => {
      clearInterval(timer);
      chart.watching = false;
      if (window.Plotly) window.Plotly.purge(chart);
    };
  }
  return () => {
    if (!chart.isConnected) chart.stop?.();
  };
}
