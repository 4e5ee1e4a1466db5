// The report's own building blocks: currencies, arms, and the two kinds of row.

const DATA = JSON.parse(document.getElementById("data").textContent);
// ---- numbers

const span = (interval) => (interval ? `[${interval.map((x) => (100 * x).toFixed(0)).join(", ")}]` : "");
const CURRENCIES = {
  env_steps: { name: "Simulator steps", show: (x) => scaled(x, ["", "k", "M", "G"], 1000) },
  core_s: { name: "CPU core time", show: duration },
  flops: { name: "Training FLOPs", show: (x) => scaled(x, ["", "k", "M", "G", "T", "P", "E"], 1000) },
  wall_s: { name: "Wall-clock time", show: duration },
  demonstrations: { name: "Demonstrations", show: (x) => scaled(x, ["", "k", "M"], 1000) },
  energy_j: { name: "Joules of the whole machine", show: (x) => scaled(x, ["", "k", "M", "G"], 1000) },
};
const price = (currency, value) => (value === null || value === undefined ? "unknown" : CURRENCIES[currency].show(value));

// ---- colours and labels by arm, the same in every section

const COLOURS = {
  told: "told", shown_once: "shown", shown_once_official: "shown", told_and_shown: "both",
  demos: "tuned", scratch_demos: "imitation",
  pretrained_shown_once: "shown", pretrained_finetune: "tuned",
  scratch_imitation: "imitation", scratch_reinforce: "reinforce",
  scratch: "reinforce", off_policy: "both", rlpd: "s2", imitation: "imitation",
  off_the_bat: "told", prior_of_all: "told", lifted: "told", shown: "shown", finetuned: "tuned",
};
const colour = (arm) => `var(--${COLOURS[arm.split(".").pop().replace(/_success$/, "").replace(/_\d+$/, "")] || "control"})`;
const armOf = (arm) => DATA.arms[arm] || { label: arm, short: arm, note: "" };
const shortTask = (task) => task.split("/").pop();
const heldOut = (arm) => (DATA.heldout || {})[arm];

// ---- sections

function section(id, present, draw) {
  const node = byId(id);
  if (present) return draw(node);
  for (const child of [...node.children].slice(1)) child.remove();
  node.append(html("p", { class: "absent" }, "Not run: this part of the run folder has no results yet."));
}
// ---- rows in HTML: bars and dots on a scale from 0 to 100 %

const place = (node, interval) => {
  node.style.left = `${100 * interval[0]}%`;
  node.style.width = `${100 * (interval[1] - interval[0])}%`;
  return node;
};
function tipSuccess(node, label, success) {
  return tip(node, `${label}: ${percent(success.mean)}`, `95 % interval ${span(success.interval)}`,
    `${success.episodes.toLocaleString("en-US")} episodes`);
}
function barRow(arm, success, minor) {
  const { label, note } = armOf(arm);
  const fill = html("div", { class: "fill", style: `--colour:${colour(arm)}` });
  fill.style.width = `${100 * success.mean}%`;
  const track = html("div", { class: "track" }, fill, place(html("div", { class: "whisker" }), success.interval));
  return tipSuccess(html("div", { class: minor ? "row minor" : "row" },
    html("div", { class: "name" }, label, html("small", {}, note)), track,
    html("div", { class: "value" }, percent(success.mean), html("small", {}, span(success.interval)))), label, success);
}
function percentAxis() {
  const ticks = [0, 25, 50, 75, 100].map((tick) => html("span", {}, tick === 100 ? "100 %" : String(tick)));
  return html("div", { class: "axis", "aria-hidden": "true" }, html("div", {}, ...ticks));
}
function dotLine(marks) {
  const line = html("div", { class: "line" });
  for (const [i, { success, arm, hollow }] of marks.entries()) {
    const lane = marks.length > 1 ? i * 7 - 3.5 : 0; // two arms on one line: one above the other
    const style = `--colour:${colour(arm)};--lane:${lane}px`;
    const point = html("div", { class: hollow ? "point hollow" : "point", style });
    point.style.left = `${100 * success.mean}%`;
    line.append(place(html("div", { class: "whisker", style }), success.interval), point);
  }
  return line;
}

// ---- charts in SVG

function logTicks(low, high) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) ticks.push(10 ** power);
  return ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
}
// Success up, cost to the right on a log scale, with a place for what cost nothing.
function costAxes(chart, { x, y, low, high, zero, left, right, start, width, height, bottom }, currency, of, what = "success") {
  for (const tick of [0, 0.25, 0.5, 0.75, 1]) {
    chart.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }),
      svg("text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, (100 * tick).toFixed(0)));
  }
  for (const threshold of DATA.thresholds) chart.append(svg("line", { class: "threshold", x1: left, x2: width - right, y1: y(threshold), y2: y(threshold) }));
  const ticks = logTicks(low, high), every = Math.ceil(ticks.length * 62 / (width - start));
  ticks.forEach((tick, i) => {
    chart.append(svg("line", { class: "grid", x1: x(tick), x2: x(tick), y1: y(0), y2: y(0) + 5 }));
    if (i % every === 0) chart.append(svg("text", { x: x(tick), y: height - bottom + 20, "text-anchor": "middle" }, CURRENCIES[currency].show(tick)));
  });
  if (zero) chart.append(svg("text", { x: x(0), y: height - bottom + 20, "text-anchor": "middle" }, "0"),
    svg("path", { d: `M${start - 14} ${y(0) + 5}l5 -10M${start - 8} ${y(0) + 5}l5 -10`, style: "stroke:var(--faint);stroke-width:1.3" }));
  chart.append(svg("text", { x: 0, y: 11 }, `${what}, %`),
    svg("text", { x: width - right, y: height - 6, "text-anchor": "end" }, `${CURRENCIES[currency].name} ${of}, log scale`));
}
const ruler = document.createElement("canvas").getContext("2d");
function textWidth(text) {
  ruler.font = `600 13px ${getComputedStyle(document.body).fontFamily}`;
  return ruler.measureText(text).width;
}
const overlaps = (a, b) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;

// Puts each label beside its anchor: the first of the candidate places that stays inside the chart
// and hits neither a label nor an obstacle (a box); the least bad one where none is free.
function directLabels(chart, labels, obstacles, width, height) {
  const placed = [];
  for (const { text, x, y, fill } of labels) {
    const w = textWidth(text) + 6, h = 16;
    const candidates = [-8, -26, 10, -44, 28, 46, 64].flatMap((down) => [x + 10, x - w - 10, x - w / 2].map((left) => [left, y + down]))
      .filter(([left, top]) => left > x || left + w < x || top + h < y || top > y)  // not on its own end
      .map(([left, top]) => ({ x: Math.min(Math.max(left, 2), width - w - 2), y: top, w, h, moved: left < 2 || left + w > width - 2 }));
    const hits = (box, others) => others.filter((other) => overlaps(box, other)).length;
    // A label upon a label cannot be read; upon a curve it can.
    const badness = (box) => hits(box, obstacles) + 10 * hits(box, placed) + (box.moved ? 0.5 : 0) + (box.y < 0 || box.y + h > height ? 5 : 0);
    const best = candidates.reduce((a, b) => (badness(b) < badness(a) ? b : a));
    placed.push(best);
    chart.append(svg("text", { class: "direct", x: best.x + 3, y: best.y + 12.5, style: `fill:${fill}` }, text));
  }
}
