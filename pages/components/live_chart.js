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

export default function ({ parentElement, data }) {
  const host = parentElement.querySelector(".live-chart");
  const chart = host.firstElementChild;
  host.dataset.name = data.name;
  chart.setAttribute("aria-label", data.alt);
  const figure = JSON.parse(data.figure);
  const draw = async () => {
    const Plotly = await loadPlotly(data.plotly);
    if (!chart.isConnected) return;
    const { figure, revision } = chart.latest;
    await Plotly.react(chart, figure.data, { ...themed(figure.layout, host), uirevision: revision }, {
      displaylogo: false,
      responsive: true,
      displayModeBar: "hover",
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
      modeBarButtonsToAdd: [FULLSCREEN],
    });
    chart.dataset.updates = Number(chart.dataset.updates || 0) + 1;
  };
  chart.latest = { figure, revision: data.revision };
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
