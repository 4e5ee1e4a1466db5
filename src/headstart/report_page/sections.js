// The sections of the page, top to bottom. Each draws from DATA, or says that it was not run.

function drawTop() {
  byId("tiles").replaceChildren(...DATA.tiles.map((tile) => html("div", { class: "tile", style: tile.arm ? `--colour:${colour(tile.arm)}` : "--colour:var(--ink)" },
    html("b", {}, tile.value), html("span", {}, tile.label), html("i", {}, tile.note))));
  byId("films").replaceChildren(...DATA.films.map((film) => {
    const video = html("video", { src: film.src, loop: "", playsinline: "", autoplay: "", "aria-label": film.title });
    video.muted = true; // or a browser does not start it by itself
    video.addEventListener("click", () => (video.paused ? video.play() : video.pause()));
    const verdict = html("small", { class: film.success ? "won" : "" }, film.success ? "solved, shown once" : "not solved");
    return html("figure", {}, video, html("figcaption", {}, film.title, verdict));
  }));
  byId("contents").replaceChildren(...[...document.querySelectorAll("section[data-name]")].map((node) =>
    html("a", { href: `#${node.id}` }, node.dataset.name)));
  themeButton(byId("theme"));
}

// ---- shown once

const CUES = ["shown_once", "shown_once_official", "told_and_shown", "told"];
const CONTROLS = ["retrieval", "open_loop", "wrong_prompt", "no_prompt"];

function drawShown() {
  const cues = CUES.filter(heldOut), controls = CONTROLS.filter(heldOut);
  const rows = (names, minor) => names.map((name) => barRow(`heldout.${name}`, heldOut(name), minor));
  byId("shown-mean").replaceChildren(percentAxis(), ...rows(cues, false),
    ...(controls.length ? [html("div", { class: "divider" }, "controls"), ...rows(controls, true)] : []));
  const tasks = Object.keys(heldOut(cues[0] || controls[0]).tasks);
  byId("shown-caption").textContent = `Success, mean of ${tasks.length} held-out tasks, with 95 % intervals. ${DATA.interval_note}`;
  byId("shown-tasks").replaceChildren(...tasks.map((task) => html("div", { class: "panel" }, html("h4", {}, shortTask(task)),
    ...[...cues, ...controls].filter((name) => heldOut(name).tasks[task]).map((name) => {
      const arm = `heldout.${name}`, success = heldOut(name).tasks[task], control = CONTROLS.includes(name);
      return tipSuccess(html("div", { class: name === "shown_once" ? "dot-row major" : "dot-row" },
        html("div", { class: "name" }, armOf(arm).short), dotLine([{ arm, success, hollow: control }]),
        html("div", { class: "value" }, percent(success.mean))), `${shortTask(task)}, ${armOf(arm).label.toLowerCase()}`, success);
    }))));
}

// ---- seen tasks

function drawSeen() {
  const { told, shown_once: shown } = DATA.seen;
  const at = (side, task) => (side && side.tasks[task] ? side.tasks[task].mean : -1);
  const tasks = [...new Set([told, shown].filter(Boolean).flatMap((side) => Object.keys(side.tasks)))];
  const orders = {
    shown: (a, b) => at(shown, b) - at(shown, a) || at(told, b) - at(told, a),
    told: (a, b) => at(told, b) - at(told, a) || at(shown, b) - at(shown, a),
    gap: (a, b) => at(shown, b) - at(told, b) - at(shown, a) + at(told, a),
    name: (a, b) => shortTask(a).localeCompare(shortTask(b)),
  };
  const sides = [["seen.told", told], ["seen.shown_once", shown]].filter(([, side]) => side);
  const draw = (order) => byId("seen-rows").replaceChildren(...tasks.sort(orders[order]).map((task) => {
    const marks = sides.filter(([, side]) => side.tasks[task]).map(([arm, side]) => ({ arm, success: side.tasks[task] }));
    return tip(html("div", { class: "dot-row" }, html("div", { class: "name" }, shortTask(task)), dotLine(marks),
      html("div", { class: "value" }, ...marks.map(({ arm, success }) =>
        html("span", { style: `--colour:${colour(arm)}` }, (100 * success.mean).toFixed(0))))),
    shortTask(task), ...marks.map(({ arm, success }) =>
      `${armOf(arm).short}: ${percent(success.mean)} ${span(success.interval)}, ${success.episodes} episodes`));
  }));
  byId("seen-key").replaceChildren(...sides.map(([arm, side]) =>
    html("span", { style: `--colour:${colour(arm)}` }, `${armOf(arm).label} ${percent(side.mean)}`)));
  choices(byId("seen-sort"), [["shown", "by shown"], ["told", "by told"], ["gap", "by gap"], ["name", "A–Z"]], "shown", draw);
  byId("seen-caption").textContent = `${tasks.length} tasks; success from 0 to 100 %, faint bars are 95 % intervals.`;
  draw("shown");
}

// ---- few demonstrations

const FEW = [
  { arm: "heldout.demos", label: "Pre-trained, then fine-tuned", points: [["0", "told"], ["1", "demos_1"], ["5", "demos_5"]] },
  { arm: "heldout.scratch_demos", label: "From scratch", points: [["1", "scratch_demos_1"], ["5", "scratch_demos_5"]] },
  { arm: "heldout.shown_once", label: "Shown once", points: [["1", "shown_once"]] },
];
function drawFew() {
  const panel = (pick, height, isMain) => (width) => {
    const left = isMain ? 38 : 28, right = isMain ? 22 : 14, top = isMain ? 22 : 8, bottom = isMain ? 44 : 24;
    const x = (k) => left + (width - left - right) * ["0", "1", "5"].indexOf(k) / 2;
    const y = (rate) => top + (1 - rate) * (height - top - bottom);
    const chart = svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, height });
    for (const tick of isMain ? [0, 0.25, 0.5, 0.75, 1] : [0, 0.5, 1]) {
      chart.append(svg("line", { class: "grid", x1: left - 8, x2: width, y1: y(tick), y2: y(tick) }),
        svg("text", { x: left - 12, y: y(tick) + 4, "text-anchor": "end" }, (100 * tick).toFixed(0)));
    }
    for (const k of ["0", "1", "5"]) chart.append(svg("text", { x: x(k), y: height - bottom + 20, "text-anchor": "middle" }, k));
    if (isMain) chart.append(svg("text", { x: x("1"), y: height - 6, "text-anchor": "middle" }, "demonstrations of the new task"),
      svg("text", { x: 0, y: 10 }, "success, %"));
    const labels = [], obstacles = [];
    for (const { arm, label, points } of FEW) {
      const known = points.map(([k, name]) => [k, pick(name)]).filter(([, success]) => success);
      if (!known.length) continue;
      const stroke = colour(arm), alone = known.length === 1;
      chart.append(svg("path", { class: "curve", d: path(known.map(([k, s]) => [x(k), y(s.mean)])), style: `stroke:${stroke}` }));
      for (const [k, success] of known) {
        const nudge = alone ? -9 : 0;
        chart.append(svg("line", { class: "whisker", x1: x(k) + nudge, x2: x(k) + nudge, y1: y(success.interval[0]), y2: y(success.interval[1]), style: `stroke:${stroke}` }),
          tipSuccess(svg("circle", { cx: x(k) + nudge, cy: y(success.mean), r: isMain ? 5.5 : 4, style: `fill:${stroke};stroke:var(--paper);stroke-width:1.5` }), `${label}, ${k} demonstrations`, success));
        obstacles.push({ x: x(k) + nudge - 5, y: y(success.interval[1]), w: 10, h: y(success.interval[0]) - y(success.interval[1]) });
      }
      for (let i = 1; i < known.length; i += 1) { // the curve's own course, in small boxes, so that labels keep off it
        for (let part = 0; part <= 40; part += 1) {
          const [a, b] = [known[i - 1], known[i]], t = part / 40;
          obstacles.push({ x: x(a[0]) + t * (x(b[0]) - x(a[0])) - 3, y: y(a[1].mean) + t * (y(b[1].mean) - y(a[1].mean)) - 3, w: 6, h: 6 });
        }
      }
      const [k, success] = alone ? known[0] : known[known.length - 1];
      labels.push({ text: label, x: x(k) - (alone ? 9 : 0), y: y(success.mean), fill: stroke });
    }
    if (isMain) directLabels(chart, labels, obstacles, width, height - bottom);
    return chart;
  };
  responsive(byId("few-mean"), panel(heldOut, 430, true));
  const tasks = [...new Set(["demos_1", "demos_5", "scratch_demos_1", "scratch_demos_5"].filter(heldOut)
    .flatMap((name) => Object.keys(heldOut(name).tasks)))];
  byId("few-tasks").replaceChildren(...tasks.map((task) => {
    const holder = html("div", {});
    responsive(holder, panel((name) => (heldOut(name) || { tasks: {} }).tasks[task], 118, false));
    return html("div", { class: "panel" }, html("h4", {}, shortTask(task)), holder);
  }));
}

// ---- training

const LOSSES = [["action_loss", "Next action"], ["observation_loss", "Next observation"], ["word_loss", "Next word"], ["loss", "All together"]];
function drawTraining() {
  const { losses, result } = DATA.training;
  const facts = [result.parameters && `${scaled(result.parameters, ["", "k", "M", "G"], 1000)} parameters`,
    result.updates && `${result.updates.toLocaleString("en-US")} updates`,
    result.flops && `${price("flops", result.flops)}FLOP`, result.wall_s && duration(result.wall_s)].filter(Boolean);
  byId("training-lede").textContent = `Next-token prediction: the next action, the next observation and the next word.${facts.length ? ` ${facts.join(", ")}.` : ""}`;
  byId("training-losses").replaceChildren(...LOSSES.filter(([tag]) => losses[`train/${tag}`]).map(([tag, label]) => {
    const train = losses[`train/${tag}`], val = losses[`val/${tag}`] || [], holder = html("div", {});
    const last = ([name, series, stroke]) => html("span", { style: `--colour:${stroke}` }, `${name} ${series[series.length - 1][1].toFixed(2)}`);
    responsive(holder, (width) => lossChart(width, train, val, label));
    return html("div", { class: "panel" }, html("h4", {}, label), html("div", { class: "ends" },
      ...[["training", train, "var(--s3)"], ["validation", val, "var(--ink)"]].filter(([, series]) => series.length).map(last)), holder);
  }));
}
function lossChart(width, train, val, label) {
  const height = 190, left = 36, right = 12, top = 10, bottom = 24;
  const near = (i) => train.slice(Math.max(0, i - 4), i + 5).map(([, value]) => value);
  const means = train.map(([step], i) => [step, near(i).reduce((a, v) => a + v, 0) / near(i).length]);
  const last = Math.max(...[...train, ...val].map(([step]) => step));
  const low = Math.min(...[...train, ...val].map(([, value]) => value));
  const high = Math.max(...[...means, ...val].map(([, value]) => value));
  const x = (step) => left + (width - left - right) * step / last;
  const y = (value) => top + (height - top - bottom) * (1 - (Math.min(value, high) - low) / (high - low || 1));
  const chart = svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": `${label} loss` });
  for (const value of [low, (low + high) / 2, high]) {
    chart.append(svg("line", { class: "grid", x1: left, x2: width, y1: y(value), y2: y(value) }),
      svg("text", { x: left - 7, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(2)));
  }
  chart.append(svg("text", { x: left, y: height - 5 }, "0"),
    svg("text", { x: width - right, y: height - 5, "text-anchor": "end" }, `${scaled(last, ["", "k", "M"], 1000)} updates`));
  const curve = (points, style, kind) => svg("path", { class: `curve ${kind || ""}`, d: path(points), style });
  const raw = (series) => series.map(([step, value]) => [x(step), y(value)]);
  chart.append(curve(raw(train), "stroke:var(--s3);stroke-width:1", "ghost"), curve(raw(means), "stroke:var(--s3);stroke-width:2.5"));
  if (val.length) chart.append(curve(raw(val), "stroke:var(--ink);stroke-width:1.6"));
  const hover = svg("rect", { class: "hit", x: left, y: top, width: width - left - right, height: height - top - bottom });
  hover.addEventListener("pointermove", (event) => {
    const step = last * (event.clientX - hover.getBoundingClientRect().left) / (width - left - right);
    const at = (series) => series.reduce((a, b) => (Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a));
    showTip(hover, `update ${at(train)[0].toLocaleString("en-US")}`, [`training ${at(train)[1].toFixed(3)}`, val.length ? `validation ${at(val)[1].toFixed(3)}` : ""]);
  });
  hover.addEventListener("pointerleave", hideTip);
  chart.append(hover);
  return chart;
}

// ---- the bill, the facts, the command

function drawProtocol() {
  const stages = DATA.bill.map((entry, i) => ({ ...entry, colour: `var(--s${i % 6 + 1})` }));
  const stacks = ["wall_s", "core_s", "env_steps", "flops", "energy_j"].map((currency) => {
    const parts = stages.filter((entry) => entry[currency] > 0);
    const total = parts.reduce((sum, entry) => sum + entry[currency], 0);
    const least = stages.some((entry) => entry[currency] === null) ? "at least " : "";
    return total ? html("div", {}, html("div", { class: "stack-name" }, html("span", {}, CURRENCIES[currency].name), html("b", {}, least + price(currency, total))),
      html("div", { class: "stack" }, ...parts.map((entry) => {
        const part = tip(html("div", { style: `--colour:${entry.colour}` }), entry.stage, price(currency, entry[currency]), `${percent(entry[currency] / total)} of the run`);
        part.style.flex = `${entry[currency] / total} 0 0`;
        return part;
      }))) : null;
  });
  byId("bill").replaceChildren(...stacks.filter(Boolean), html("div", { class: "legend" }, ...stages.map((entry) =>
    html("span", {}, html("i", { class: "swatch", style: `--colour:${entry.colour}` }), entry.stage))));
  const fact = (name, value) => {
    if (typeof value === "boolean") return value ? "yes" : "no";
    if (name.endsWith("_bytes")) return `${digits(value / 2 ** 30)} GiB`;
    if (Array.isArray(value)) return value.join(", ") || "none";
    return typeof value === "number" ? value.toLocaleString("en-US") : String(value);
  };
  const plain = (facts) => Object.entries(facts || {}).filter(([, value]) => value !== null && (typeof value !== "object" || Array.isArray(value)));
  const list = (title, facts) => html("div", {}, html("h3", {}, title), html("dl", {},
    ...plain(facts).flatMap(([name, value]) => [html("dt", {}, name.replace(/_bytes$/, "").replaceAll("_", " ")), html("dd", {}, fact(name, value))])));
  byId("facts").replaceChildren(...[["Protocol", DATA.protocol], ["Machine", DATA.machine], ["Versions", DATA.versions], ["Data", DATA.data]]
    .filter(([, facts]) => plain(facts).length).map(([title, facts]) => list(title, facts)));
  const button = html("button", { type: "button", class: "quiet" }, "Copy");
  button.addEventListener("click", () => navigator.clipboard.writeText(DATA.commands.join("\n")).then(() => (button.textContent = "Copied")));
  byId("command").replaceChildren(html("pre", {}, html("code", {}, DATA.commands.join("\n")), button));
}

// ---- all of it

const any = (object, names) => Boolean(object) && names.some((name) => object[name]);
drawTop();
section("shown", any(DATA.heldout, [...CUES, ...CONTROLS]), drawShown);
section("seen", any(DATA.seen, ["told", "shown_once"]), drawSeen);
section("few", any(DATA.heldout, ["demos_1", "demos_5", "scratch_demos_1", "scratch_demos_5"]), drawFew);
section("price", DATA.price_curves.length > 0, drawPrice);
section("training", Object.keys(DATA.training.losses).length > 0, drawTraining);
section("replay", DATA.replays.length > 0, () => replay(DATA.replays));
drawProtocol();
