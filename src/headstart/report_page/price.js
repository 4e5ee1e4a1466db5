// The price of skill: success against cost on a log axis, the table of prices, and the break-even.

const SHARES = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, Infinity];
const ALL_TASKS = "*";
const isPretrained = (arm) => arm.startsWith("pretrained");
const choice = { currency: "env_steps", task: ALL_TASKS, share: Infinity };

// What a point costs when the upstream bill is shared over so many tasks; null where unknown.
function costAt(curve, point, share) {
  const marginal = point.cost[choice.currency];
  if (marginal === null || marginal === undefined) return null;
  if (!isPretrained(curve.arm) || share === Infinity) return marginal;
  const upstream = DATA.upstream[choice.currency];
  return upstream === null || upstream === undefined ? null : marginal + upstream / share;
}
const ofTask = () => DATA.price_curves.filter((curve) => curve.task === choice.task);

function drawPrice() {
  const tasks = [...new Set(DATA.price_curves.map((curve) => curve.task))];
  const arms = (task) => new Set(DATA.price_curves.filter((curve) => curve.task === task).map((curve) => curve.arm)).size;
  choice.task = tasks.reduce((best, task) => (arms(task) > arms(best) ? task : best));
  choice.currency = Object.keys(CURRENCIES).find((currency) => hasPrices(currency)) || "env_steps";
  const redrawChart = responsive(byId("price-chart"), priceChart);
  const redraw = () => { redrawChart(); priceTable(); priceCaption(); };
  choices(byId("price-currency"), Object.entries(CURRENCIES).filter(([currency]) => hasPrices(currency))
    .map(([currency, { name }]) => [currency, name]), choice.currency, (currency) => { choice.currency = currency; redraw(); });
  choices(byId("price-task"), tasks.map((task) => [task, task === ALL_TASKS ? DATA.all_tasks_label : shortTask(task)]),
    choice.task, (task) => { choice.task = task; redraw(); });
  const slider = html("input", { id: "price-slider", type: "range", min: 0, max: SHARES.length - 1, value: SHARES.indexOf(choice.share) });
  const output = html("output", {});
  const share = () => {
    choice.share = SHARES[slider.value];
    output.textContent = choice.share === Infinity ? "not charged" : choice.share === 1 ? "all charged to this task" : `shared by ${choice.share.toLocaleString("en-US")} tasks`;
    redraw();
  };
  slider.addEventListener("input", share);
  byId("price-share").replaceChildren(html("label", { for: "price-slider" }, "Data and pre-training:"), slider, output);
  share();
  drawEven();
}
const hasPrices = (currency) => DATA.price_curves.some((curve) => curve.points.some((point) => typeof point.cost[currency] === "number"));

function priceChart(width) {
  const narrow = width < 560, height = narrow ? 360 : 420, left = 40, right = 16, top = 26, bottom = 48;
  const curves = ofTask(), chart = svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, height });
  const costs = curves.flatMap((curve) => curve.points.flatMap((point) => [1, choice.share, Infinity].map((share) => costAt(curve, point, share))));
  const positive = costs.filter((cost) => cost > 0);
  if (!positive.length) return html("p", { class: "absent" }, "No prices are known in this currency for this task.");
  const zero = costs.includes(0), start = left + (zero ? 46 : 0);
  const low = 10 ** (Math.log10(Math.min(...positive)) - 0.15), high = 10 ** (Math.log10(Math.max(...positive)) + 0.15);
  const x = (cost) => (cost > 0 ? start + (width - right - start) * Math.log(cost / low) / Math.log(high / low) : left + 10);
  const y = (rate) => top + (1 - rate) * (height - top - bottom);
  costAxes(chart, { x, y, low, high, zero, left, right, start, width, height, bottom }, choice.currency, "for the new task");
  const labels = [], obstacles = [];
  // Full prices first, faint and beneath.
  if (choice.share !== 1) curves.filter((curve) => isPretrained(curve.arm)).forEach((curve) => drawCurve(chart, curve, 1, { x, y, ghost: true, obstacles }));
  const labelled = new Set(); // a lone point is larger and lies beneath, so that it shows around another
  for (const curve of [...curves].sort((a, b) => a.points.length - b.points.length)) {
    const anchor = drawCurve(chart, curve, choice.share, { x, y, obstacles });
    if (anchor && !labelled.has(curve.arm)) labels.push({ text: narrow ? armOf(curve.arm).short : armOf(curve.arm).label, ...anchor, fill: colour(curve.arm) });
    labelled.add(curve.arm);
  }
  directLabels(chart, labels, obstacles, width, height - bottom);
  return chart;
}

// Draws one curve; returns where its label goes, or null where its price is unknown.
function drawCurve(chart, curve, share, { x, y, ghost, obstacles }) {
  const known = curve.points.map((point) => ({ ...point, total: costAt(curve, point, share) })).filter(({ total }) => total !== null);
  if (!known.length) return null;
  const stroke = colour(curve.arm), dense = known.length > 8;
  const at = known.map((point) => [x(point.total), y(point.mean)]);
  const group = svg("g", { class: ghost ? "ghost" : null });
  if (dense) {
    const band = [...known.map((p) => [x(p.total), y(p.interval[1])]), ...known.map((p) => [x(p.total), y(p.interval[0])]).reverse()];
    group.append(svg("path", { d: `${path(band)}Z`, style: `fill:${stroke};opacity:.13` }));
  }
  group.append(svg("path", { class: "curve", d: path(at), style: `stroke:${stroke}` }));
  known.forEach((point, i) => {
    const [px, py] = at[i];
    if (!dense && !ghost) group.append(svg("line", { class: "whisker", x1: px, x2: px, y1: y(point.interval[0]), y2: y(point.interval[1]), style: `stroke:${stroke}` }));
    const dot = svg("circle", { cx: px, cy: py, r: dense ? 6 : known.length === 1 ? 8 : 5, class: dense ? "hit" : null, style: dense ? null : `fill:${stroke};stroke:var(--paper);stroke-width:1.5` });
    tip(dot, `${armOf(curve.arm).label}${point.note ? `, ${point.note}` : ""}`, `${percent(point.mean)} ${span(point.interval)}`,
      `${price(choice.currency, point.total)}${isPretrained(curve.arm) && share !== Infinity ? `, with 1/${share} of the upstream bill` : ""}`);
    group.append(dot);
    if (!dense) obstacles.push({ x: px - 5, y: y(point.interval[1]), w: 10, h: Math.max(10, y(point.interval[0]) - y(point.interval[1])) });
  });
  for (let i = 1; i < at.length; i += 1) { // labels keep off the curve's course
    for (let t = 0; t <= 1; t += 0.04) obstacles.push({ x: at[i - 1][0] + t * (at[i][0] - at[i - 1][0]) - 3, y: at[i - 1][1] + t * (at[i][1] - at[i - 1][1]) - 3, w: 6, h: 6 });
  }
  if (!at.length) return null;
  chart.append(group);
  const anchor = at[dense ? Math.floor(at.length * 0.55) : at.length - 1];
  return { x: anchor[0], y: anchor[1] };
}

function priceTable() {
  const rows = DATA.price.filter((row) => row.task === choice.task && row.currency === choice.currency);
  const unit = (row, value) => `${row.censored ? "> " : ""}${price(choice.currency, value)}`;
  const known = (key) => (row) => !row.censored && row[key] !== null;
  const cheapest = (key, threshold) => Math.min(...rows.filter((row) => row.threshold === threshold).filter(known(key)).map((row) => row[key]));
  const cell = (row, key, label, extra) => {
    const best = known(key)(row) && row[key] === cheapest(key, row.threshold);
    return html("td", { "data-label": label, class: best ? "best" : null },
      html("span", {}, row[key] === null ? "unknown" : unit(row, row[key]), extra ? html("small", {}, extra) : null));
  };
  const shared = `shared over ${DATA.amortised_over} tasks`;
  rows.sort((a, b) => a.threshold - b.threshold);
  const body = rows.map((row, i) => html("tr", { class: i && row.threshold !== rows[i - 1].threshold ? "first" : null },
    html("td", {}, html("i", { class: "swatch", style: `--colour:${colour(row.arm)}` }), armOf(row.arm).label),
    html("td", { "data-label": "success" }, percent(row.threshold)),
    cell(row, "marginal", "this task alone", row.interval[0] !== null && row.interval[0] < row.interval[1] && `[${row.interval.map((x) => price(choice.currency, x)).join(", ")}]`),
    cell(row, "amortised", shared), cell(row, "full", "with all that came before")));
  byId("price-table").replaceChildren(rows.length ? html("table", {}, html("thead", {}, html("tr", {},
    ...["Way of learning", "to reach", "this task alone", shared, "with all that came before"].map((name) => html("th", {}, name)))),
  html("tbody", {}, ...body)) : html("p", { class: "absent" }, "No prices in this currency for this task."));
  byId("price-note").textContent = "The cheapest way to each threshold is in bold. “> x” means that the threshold was not reached by x, the most that was spent. A skill point is one percentage point of success on one task.";
}

function priceCaption() {
  const hidden = [...new Set(ofTask().filter((curve) => curve.points.every((point) => costAt(curve, point, choice.share) === null)).map((curve) => armOf(curve.arm).label.toLowerCase()))];
  const missing = [...new Set(DATA.price_curves.map((curve) => curve.arm))].filter((arm) => !ofTask().some((curve) => curve.arm === arm)).map((arm) => armOf(arm).label.toLowerCase());
  byId("price-caption").textContent = [
    `Dotted lines: ${DATA.thresholds.map(percent).join(" and ")}.`,
    choice.share !== 1 && ofTask().some((curve) => isPretrained(curve.arm)) && DATA.upstream[choice.currency] > 0
      ? "Faint: the same with the whole bill of data and pre-training on this one task." : "",
    hidden.length ? `Price unknown in this currency: ${hidden.join(", ")}.` : "",
    missing.length ? `Not run on ${choice.task === ALL_TASKS ? "all tasks" : "this task"}: ${missing.join(", ")}.` : "",
  ].filter(Boolean).join(" ");
}

function drawEven() {
  const sides = [["with the same demonstrations", DATA.break_even_tasks], ["from reward alone", DATA.break_even_tasks_reward_only]]
    .filter(([, side]) => Object.keys(side).length);
  if (!sides.length) return byId("price-even").replaceChildren(html("p", { class: "absent" }, "Not run: nothing was learned from scratch to compare with."));
  const cells = Object.entries(CURRENCIES).filter(([currency]) => sides.every(([, side]) => side[currency])).flatMap(([currency, { name }]) => [html("div", { class: "unit" }, name),
    ...sides.map(([label, side]) => html("div", { "data-label": `Against scratch, ${label}` },
      html("b", {}, side[currency].verdict), html("p", {}, side[currency].reason)))]);
  const node = byId("price-even");
  node.style.setProperty("--sides", sides.length);
  node.replaceChildren(html("div", { class: "head" }), ...sides.map(([label]) => html("div", { class: "head" }, `Against learning from scratch, ${label}`)), ...cells);
}
