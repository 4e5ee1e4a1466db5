// Channels over time: one graph a body, one line a stream, all with one cursor.

const LINES = ["shown", "told", "tuned", "both", "imitation"];
const number = (value) => {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 100000 || (size > 0 && size < 0.0005)) return value.toExponential(1).replace("-", "\u2212");
  return value.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : 3).replace("-", "\u2212");
};

function niceTicks(low, high) {
  const rough = (high - low) / 3, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-6; tick += step) ticks.push(tick);
  return { ticks, places: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

// lines: [{name, colour, values, label}], where label is what the expert would have done.
// spans: [first, last] steps with success. go(step) is called when the reader clicks a step.
function makePlot({ title, unit, lines }, episode, spans, go, point) {
  const LEFT = 44, RIGHT = 8, TOP = 4, BOTTOM = 16;
  const canvas = html("canvas", { "aria-hidden": "true" }), pen = canvas.getContext("2d");
  const now = html("i", {}), hover = html("i", { class: "hover" });
  hover.hidden = true;
  const graph = html("div", { class: "graph", role: "img", "aria-label": `${title} over time` }, canvas, hover, now);
  const readouts = lines.map(() => html("b", {}, ""));
  const legend = html("div", { class: "legend" }, ...lines.map((line, k) =>
    html("span", { style: `--colour:var(--${line.colour})` }, line.name, readouts[k])));
  const node = html("div", { class: "plot" }, html("h4", {}, title, unit ? html("small", {}, unit) : null), legend, graph);
  const steps = episode.steps, every = lines.flatMap((line) => [line.values, line.label].filter(Boolean));
  let low = Infinity, high = -Infinity;
  for (const values of every) for (const v of values) { if (v < low) low = v; if (v > high) high = v; }
  const middle = (low + high) / 2, least = Math.max(1e-6, Math.abs(middle) * 1e-3);
  if (high - low < least) { low = middle - least / 2; high = middle + least / 2; }
  const margin = (high - low) * 0.06;
  low -= margin; high += margin;
  let width = 0, height = 0;
  const x = (step) => LEFT + (width - LEFT - RIGHT) * (steps > 1 ? step / (steps - 1) : 0.5);
  const y = (value) => TOP + (height - TOP - BOTTOM) * (1 - (value - low) / (high - low));

  function draw() {
    if (!width) return;
    const style = getComputedStyle(document.documentElement), paint = (name) => style.getPropertyValue(`--${name}`).trim();
    pen.clearRect(0, 0, width, height);
    pen.globalAlpha = 0.13; pen.fillStyle = paint("good");
    for (const [first, last] of spans) pen.fillRect(x(first), TOP, Math.max(2, x(last) - x(first)), height - TOP - BOTTOM);
    pen.globalAlpha = 1; pen.font = "11px system-ui, sans-serif"; pen.fillStyle = paint("faint"); pen.strokeStyle = paint("rule");
    pen.lineWidth = 1; pen.setLineDash([]);
    const { ticks, places } = niceTicks(low, high);
    pen.textAlign = "right"; pen.textBaseline = "middle";
    for (const tick of ticks) {
      const at = Math.round(y(tick)) + 0.5;
      pen.beginPath(); pen.moveTo(LEFT, at); pen.lineTo(width - RIGHT, at); pen.stroke();
      pen.fillText(places > 5 || Math.abs(tick) >= 1e5 ? tick.toExponential(0) : tick.toFixed(places).replace("-", "\u2212"), LEFT - 7, at);
    }
    pen.textBaseline = "alphabetic"; pen.textAlign = "left"; pen.fillText("0", LEFT, height - 2);
    pen.textAlign = "right"; pen.fillText(`${digits((steps - 1) / DATA.control_hz, 3)} s`, width - RIGHT, height - 2);
    pen.lineJoin = "round"; pen.lineCap = "round";
    for (const line of lines) if (line.label) trace(line.label, paint(line.colour), 1.4, 0.75, [3, 4]);
    for (const line of lines) trace(line.values, paint(line.colour), 1.7, 1, []);
  }
  function trace(values, colour, thickness, alpha, dash) {
    pen.strokeStyle = colour; pen.lineWidth = thickness; pen.globalAlpha = alpha; pen.setLineDash(dash); pen.beginPath();
    let drawing = false;
    values.forEach((value, step) => {
      if (!Number.isFinite(value)) { drawing = false; return; }
      drawing ? pen.lineTo(x(step), y(value)) : pen.moveTo(x(step), y(value));
      drawing = true;
    });
    pen.stroke(); pen.globalAlpha = 1;
  }
  const nearest = (event) => {
    const at = (event.clientX - graph.getBoundingClientRect().left - LEFT) / (width - LEFT - RIGHT);
    return Math.min(steps - 1, Math.max(0, Math.round(at * (steps - 1))));
  };
  let held = false;
  graph.addEventListener("pointermove", (event) => { const step = nearest(event); point(step); if (held) go(step); });
  graph.addEventListener("pointerdown", (event) => { held = true; go(nearest(event)); });
  graph.addEventListener("pointerup", () => (held = false));
  graph.addEventListener("pointerleave", () => { held = false; point(null); });

  const watch = new ResizeObserver(() => {
    const ratio = devicePixelRatio || 1;
    width = graph.clientWidth; height = graph.clientHeight;
    canvas.width = width * ratio; canvas.height = height * ratio;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    draw(); place();
  });
  watch.observe(graph);
  let at = 0, pointed = null;
  function place() {
    now.style.transform = `translateX(${x(at)}px)`;
    hover.hidden = pointed === null;
    if (pointed !== null) hover.style.transform = `translateX(${x(pointed)}px)`;
    const read = pointed === null ? at : pointed;
    lines.forEach((line, k) => (readouts[k].textContent = number(line.values[read])));
  }
  return { node, draw, stop: () => watch.disconnect(), show(step, pointing) { at = step; pointed = pointing; place(); } };
}

// The lines of a group of streams, without those that say nothing in this episode.
function groupLines(group, array, label) {
  return group.streams.map(({ name, index }, k) => {
    const values = column(array, index);
    const expert = label ? column(label, index) : null;
    const same = !expert || expert.every((v, t) => v === values[t] || Number.isNaN(v));
    return { name, colour: LINES[k % LINES.length], values, label: same ? null : expert };
  });
}
const isMissing = (values) => values.every((v) => Number.isNaN(v));
const isStill = (values) => values.every((v) => v === values[0]);
