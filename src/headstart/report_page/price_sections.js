// The page of a price report: one currency, one threshold and one set of tasks are asked for at a time.

const asked = { currency: "env_steps", threshold: 0.8, set: 0, measure: "mean" };
// At first without the prior's own report, and without what is a part of another arm.
const hidden = new Set(Object.keys(DATA.arms).filter((arm) => (DATA.arms[arm].measured === "prior" && arm !== "off_the_bat")
  || (/^imitation_/.test(arm) && "imitation" in DATA.arms)));
const number = (x) => (x === "Infinity" ? Infinity : x);
const isAsked = (row) => row.currency === asked.currency && row.threshold === asked.threshold;
const setName = (set) => `${set.tasks.length} ${set.name}`.replace(/^(\d+) all tasks/, "all $1 tasks");
const taskSet = () => DATA.sets[asked.set];
const swatch = (arm) => html("i", { class: "swatch", style: `--colour:${colour(arm)}` });
const dashes = (arm) => (/_success$/.test(arm) ? "7 5" : DATA.arms[arm].peer ? "2 4" : null);

function amount(value, censored) {
  value = number(value);
  if (value === null || value === undefined) return "unknown";
  return (censored ? "≥ " : "") + (value === Infinity ? "∞" : price(asked.currency, value));
}
const bounds = (interval, show) => (interval[0] === null ? null : `[${interval.map((x) => show(number(x))).join(", ")}]`);
const money = (row, key) => (DATA.per_core_s && row.currency === "core_s" && row[key] !== null ? `money ${row.censored ? "≥ " : ""}${digits(row[key] * DATA.per_core_s)}` : null);
// Two digits, rounded so that a bound stays one.
function times(x, bound) {
  if (x === Infinity || !x) return x ? "∞" : "0";
  const power = Math.floor(Math.log10(x)) - 1, scaled = Number((x / 10 ** power).toFixed(6));
  const nearest = { ">=": Math.floor, "<=": Math.ceil, "": Math.round }[bound](scaled);
  return Number(`${nearest}e${power}`).toLocaleString("en", { maximumFractionDigits: 9 });
}
const signs = { ">=": "≥ ", "<=": "≤ ", "": "" };
const ratioCell = (label, estimate) => html("td", { "data-label": label }, html("span", {},
  !estimate ? "unknown" : estimate.bound === "?" ? "cannot be told" : `${signs[estimate.bound]}${times(number(estimate.value), estimate.bound)}×`,
  estimate && estimate.bound !== "?" ? html("small", {}, bounds(estimate.interval, (x) => times(x, estimate.bound))) : null));
const table = (head, rows) => (rows.length ? html("table", {}, html("thead", {}, html("tr", {}, ...head.map((name) => html("th", {}, name)))), html("tbody", {}, ...rows))
  : html("p", { class: "absent" }, "Not run yet."));
const nameCell = (arm) => html("td", {}, swatch(arm), DATA.arms[arm].label, DATA.arms[arm].note ? html("small", {}, DATA.arms[arm].note) : null);

// ---- success by budget

function curvesChart(width) {
  const narrow = width < 560, height = narrow ? 360 : 440, left = 40, right = 16, top = 26, bottom = 48;
  const curves = taskSet().curves.filter((curve) => curve.currency === asked.currency && !hidden.has(curve.arm))
    .map((curve) => (asked.measure === "mean" ? curve : shareOfRuns(curve))).filter((curve) => curve.budgets.length);
  const positive = curves.flatMap((curve) => curve.budgets.filter((budget) => budget > 0));
  if (!positive.length) return html("p", { class: "absent" }, "No prices are known in this currency.");
  const zero = curves.some((curve) => curve.budgets[0] === 0), start = left + (zero ? 46 : 0);
  const low = Math.min(...positive) / 1.4, high = Math.max(...positive) * 1.4;
  const x = (cost) => (cost > 0 ? start + (width - right - start) * Math.log(cost / low) / Math.log(high / low) : left + 10);
  const y = (rate) => top + (1 - rate) * (height - top - bottom);
  const chart = svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, height });
  costAxes(chart, { x, y, low, high, zero, left, right, start, width, height, bottom }, asked.currency, "a task", asked.measure === "mean" ? "success" : `runs that reached ${percent(asked.threshold)}`);
  const labels = [], obstacles = [];
  curves.forEach((curve, i) => {
    const end = drawSteps(chart, curve, { x, y, obstacles });
    labels.push({ text: DATA.arms[curve.arm].short + (curve.tasks < taskSet().tasks.length ? ` (${curve.tasks} tasks)` : ""), ...end(i / curves.length), fill: colour(curve.arm) });
  });
  if (!narrow) directLabels(chart, labels, obstacles, width, height - bottom);
  return chart;
}

// The share of an arm's runs that have reached the threshold by a budget, in the form of a curve.
function shareOfRuns(curve) {
  const steps = curve.shares[DATA.thresholds.indexOf(asked.threshold)], share = steps.map((step) => step[1]);
  return { ...curve, budgets: steps.map((step) => step[0]), mean: share, low: share, high: share };
}

// A success holds from the budget that it was measured at on: steps, and a band of steps.
function drawSteps(chart, curve, { x, y, obstacles }) {
  const stairs = (rates) => curve.budgets.flatMap((budget, i) => [...(i ? [[x(budget), y(rates[i - 1])]] : []), [x(budget), y(rates[i])]]);
  const middle = stairs(curve.mean), stroke = colour(curve.arm), last = curve.budgets.length - 1;
  const group = svg("g", {});
  if (last) group.append(svg("path", { d: `${path([...stairs(curve.high), ...stairs(curve.low).reverse()])}Z`, style: `fill:${stroke};opacity:.1` }));
  else group.append(svg("line", { class: "whisker", x1: middle[0][0], x2: middle[0][0], y1: y(curve.low[0]), y2: y(curve.high[0]), style: `stroke:${stroke}` }));
  group.append(svg("path", { class: "curve", d: path(middle), style: `stroke:${stroke}`, "stroke-dasharray": dashes(curve.arm) }),
    svg("circle", { cx: x(curve.budgets[last]), cy: y(curve.mean[last]), r: 4.5, style: `fill:${stroke};stroke:var(--paper);stroke-width:1.5` }));
  curve.budgets.forEach((budget, i) => {
    group.append(tip(svg("circle", { class: "hit", cx: x(budget), cy: y(curve.mean[i]), r: 6 }), DATA.arms[curve.arm].label,
      `${percent(curve.mean[i])} ${span([curve.low[i], curve.high[i]])}`, `within ${price(asked.currency, budget)} a task`, `${curve.tasks} tasks`));
    obstacles.push({ x: x(budget) - 4, y: y(curve.mean[i]) - 4, w: 8, h: 8 });
  });
  chart.append(group);
  return (share) => { // labels of curves that end together are spread along them
    const at = Math.round(last * (0.45 + 0.5 * share));
    return { x: x(curve.budgets[at]), y: y(curve.mean[at]) };
  };
}

function armChips(redraw) {
  const shown = [...new Set(taskSet().curves.filter((curve) => curve.currency === asked.currency).map((curve) => curve.arm))];
  byId("curves-arms").replaceChildren(...shown.map((arm) => {
    const button = html("button", { type: "button", "aria-pressed": !hidden.has(arm) }, swatch(arm), DATA.arms[arm].short);
    button.addEventListener("click", () => {
      if (!hidden.delete(arm)) hidden.add(arm);
      button.setAttribute("aria-pressed", !hidden.has(arm));
      redraw();
    });
    return button;
  }));
  const partly = taskSet().curves.filter((curve) => curve.currency === asked.currency && curve.tasks < taskSet().tasks.length).length;
  byId("curves-caption").textContent = [
    DATA.sets.length > 1 ? `On ${setName(taskSet())}; another choice of tasks is above.` : "",
    asked.measure === "mean" ? "Bands: 95 % bootstrap intervals over tasks and seeds." : "Kaplan and Meier's estimate over tasks and seeds.",
    "Dashed: success-only reward. Dotted: another library.",
    partly ? "An arm with a number of tasks behind its name has not been run on all of them, and is not comparable to the others." : "",
    taskSet().unknown[asked.currency].length ? `Of unknown price: ${taskSet().unknown[asked.currency].map((arm) => DATA.arms[arm].short).join(", ")}.` : "",
  ].filter(Boolean).join(" ");
}

// ---- tables

function setsTable() {
  const rows = taskSet().prices.filter(isAsked), comparable = rows.filter((row) => row.tasks === taskSet().tasks.length && !row.censored);
  const best = (key) => Math.min(...comparable.filter((row) => row[key] !== null).map((row) => row[key]));
  const cell = (row, key, label, extra) => html("td", { "data-label": label, class: comparable.includes(row) && row[key] === best(key) ? "best" : null },
    html("span", {}, amount(row[key], row.censored), extra ? html("small", {}, extra) : null));
  byId("sets-table").replaceChildren(table(["Way of learning", "tasks", "budget a task", "all together", "with all that came before"], rows.map((row) => html("tr", {},
    nameCell(row.arm), html("td", { "data-label": "tasks" }, `${row.tasks} of ${taskSet().tasks.length}`),
    html("td", { "data-label": "budget a task" }, row.budget === null ? "not reached" : amount(row.budget)),
    cell(row, "marginal", "all together", [bounds(row.interval, amount), money(row, "marginal")].filter(Boolean).join(" · ")),
    cell(row, "full", "with all that came before", money(row, "full"))))));
}

function boughtTable() {
  const smallest = (tasks) => DATA.sets.findIndex((set) => tasks.every((task) => set.tasks.includes(task)));
  const rows = DATA.comparisons.filter((row) => isAsked(row) && smallest(row.tasks) === asked.set), pairs = rows.flatMap((row) => row.against.map((against, i) => [row, against, i]));
  byId("bought-table").replaceChildren(table(["Prior", "on", "against the cheapest with", "new tasks alone", "with all that came before", "of it, by demonstrations"], pairs.map(([row, against, i]) =>
    html("tr", { class: i ? null : "first" }, i ? html("td", {}) : nameCell(row.arm),
      html("td", { "data-label": "on" }, html("span", {}, `${row.tasks.length} tasks`, row.known_already ? html("small", {}, `${row.known_already} known already`) : null)),
      html("td", { "data-label": "against" }, html("span", {}, DATA.access[against.access],
        html("small", {}, swatch(against.arm), DATA.arms[against.arm].short, against.same_reward ? "" : ", dense reward"))),
      row.marginal === 0 ? html("td", { "data-label": "new tasks alone" }, "takes none more") : ratioCell("new tasks alone", against.ratio),
      ratioCell("with all that came before", against.full_ratio),
      against.access === "reward" && row.demonstrations_factor ? ratioCell("of it, by demonstrations", row.demonstrations_factor) : html("td", {})))));
  const here = pairs.filter(([row]) => DATA.arms[row.arm].measured === "here");
  byId("bought-verdicts").replaceChildren(...(here.length ? here : pairs).map(([row, against]) =>
    html("p", {}, swatch(row.arm), html("b", {}, `${DATA.arms[row.arm].short}: `), against.sentence)));
}

function eachTable() {
  const prices = new Map(DATA.price.filter(isAsked).map((row) => [`${row.arm} ${row.task}`, row]));
  const arms = Object.keys(DATA.arms).filter((arm) => !hidden.has(arm));
  const tasks = taskSet().tasks.filter((task) => arms.some((arm) => prices.has(`${arm} ${task}`)));
  byId("each-table").replaceChildren(table(["Task", ...arms.map((arm) => DATA.arms[arm].short)], tasks.map((task) => {
    const rows = arms.map((arm) => prices.get(`${arm} ${task}`));
    const best = Math.min(...rows.filter((row) => row && !row.censored && row.marginal !== null).map((row) => row.marginal));
    return html("tr", {}, html("td", {}, shortTask(task)), ...rows.map((row) => (row
      ? tip(html("td", { class: row.censored ? "weak" : row.marginal === best ? "best" : null }, amount(row.marginal, row.censored)),
        `${shortTask(task)}, ${DATA.arms[row.arm].label}`, `${row.seeds - row.censored} of ${row.seeds} curves reached ${percent(row.threshold)}`, bounds(row.interval, amount))
      : html("td", { class: "weak" }, "–"))));
  })));
}

function measuredTable() {
  byId("measured-missing").textContent = DATA.missing.length ? `Not run yet: ${DATA.missing.join(", ")}.` : "All arms have been run.";
  const reached = (arm) => arm.reached[asked.currency].find((row) => row.threshold === asked.threshold);
  byId("measured-table").replaceChildren(table(["Way of learning", "tasks", "seeds", "episodes an evaluation", "evaluations apart", `tasks at ${percent(asked.threshold)}`, `runs that reached ${percent(asked.threshold)}`, "median", "spent before"],
    Object.entries(DATA.arms).map(([name, arm]) => html("tr", {}, nameCell(name), ...[
      `${arm.tasks} of ${DATA.tasks.length}`, arm.seeds.join(" to "), arm.episodes, arm.resolution[asked.currency] === null ? "–" : amount(arm.resolution[asked.currency]),
      `${reached(arm).tasks} of ${arm.tasks}`, `${reached(arm).runs} of ${arm.runs}`, amount(reached(arm).median, reached(arm).censored), amount(arm.upstream[asked.currency]),
    ].map((text) => html("td", {}, String(text)))))));
}

// ---- all of it

byId("tiles").replaceChildren(...DATA.tiles.map((tile) => html("div", { class: "tile", style: `--colour:${colour(tile.arm)}` },
  html("b", {}, tile.value), html("span", {}, tile.label), html("i", {}, tile.note))));
byId("contents").replaceChildren(...[...document.querySelectorAll("section[data-name]")].map((node) => html("a", { href: `#${node.id}` }, node.dataset.name)));
themeButton(byId("theme"));
const redrawCurves = responsive(byId("curves-chart"), curvesChart);
const redrawAll = () => { armChips(() => { redrawCurves(); eachTable(); }); redrawCurves(); setsTable(); boughtTable(); eachTable(); measuredTable(); };
const choose = (id, key, options) => choices(byId(id), options, asked[key], (value) => { asked[key] = value; redrawAll(); });
choose("currency", "currency", ["env_steps", "core_s"].map((currency) => [currency, CURRENCIES[currency].name]));
choose("threshold", "threshold", DATA.thresholds.map((threshold) => [threshold, percent(threshold)]));
choose("tasks-chosen", "set", DATA.sets.map((set, i) => [i, setName(set)]));
choose("curves-measure", "measure", [["mean", "Mean success"], ["share", "Share of runs at the threshold"]]);
redrawAll();
