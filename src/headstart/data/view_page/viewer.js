// The desk: the list on the left, one episode on the right, and the clock that moves it.

const state = { episode: null, index: 0, step: 0, clock: 0, playing: false, speed: 1, pointed: null, won: null };
let screens = [], plots = [], frame = 0, last = 0;

const count = (value) => value.toLocaleString("en-US");
const episodesOf = (n) => (n === 1 ? "1 episode" : `${count(n)} episodes`);
const text = (i) => TABLE.texts[i];
const taskOf = (i) => text(TABLE.task[i]), wordsOf = (i) => text(TABLE.instruction[i]), actorOf = (i) => text(TABLE.behavior[i]);

// ---- what is in the dataset

function drawSummary() {
  const figure = (name, value, small) => html("div", {}, html("dt", {}, name), html("dd", {}, value, small ? html("small", {}, small) : null));
  const seconds = DATA.env_steps / DATA.control_hz, embedded = DATA.embedded ? `${count(TABLE.number.length)} in this file` : "";
  byId("figures").replaceChildren(
    figure("episodes", count(DATA.episodes), embedded), figure("steps", count(DATA.env_steps), seconds ? duration(seconds) : ""),
    figure("tasks", count(DATA.tasks.length)), figure("control rate", `${digits(DATA.control_hz, 3)}\u00a0Hz`),
    figure("channels", count(DATA.obs.length + DATA.action.length), `${DATA.obs.length} seen, ${DATA.action.length} done`),
    ...(DATA.cameras.length ? [figure("cameras", count(DATA.cameras.length), DATA.cameras.map((c) => c.name).join(", "))] : []),
    figure("on disk", DATA.size));
  const list = (title, pairs) => html("div", {}, html("h3", {}, title), html("dl", {}, ...pairs.flatMap(([a, b]) => [html("dt", {}, a), html("dd", {}, b)])));
  const won = DATA.embedded ? DATA.embedded.won : {};
  if (!DATA.embedded && state.won) state.won.forEach((one, i) => (won[taskOf(i)] = (won[taskOf(i)] || 0) + one));
  byId("about-body").replaceChildren(
    list("Tasks", DATA.tasks.map(([task, n]) => [task, `${episodesOf(n)}${isMarked() ? `, ${percent((won[task] || 0) / n)} won` : ""}`])),
    list("Channels", DATA.grouped), list("Made by", [...Object.entries(DATA.behaviors).map(([who, n]) => [who, episodesOf(n)]), ...DATA.bill, ["format", DATA.format]]));
}

// ---- the list

const ROW = 54;
let listed = [];
function refilter() {
  const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = TABLE.texts.map((t) => t.toLowerCase());
  listed = TABLE.number.map((_, i) => i).filter((i) => {
    if (state.outcome !== "all" && state.won && Boolean(state.won[i]) !== (state.outcome === "won")) return false;
    return words.every((word) => [TABLE.task, TABLE.instruction, TABLE.behavior].some((c) => found[c[i]].includes(word)) || String(TABLE.number[i]) === word);
  });
  const all = TABLE.number.length;
  byId("count").textContent = listed.length === all ? episodesOf(all) : `${count(listed.length)} of ${count(all)} episodes`;
  byId("sheet").style.height = `${listed.length * ROW}px`;
  drawRows();
}
function drawRows() {
  const rows = byId("rows"), first = Math.max(0, Math.floor(rows.scrollTop / ROW) - 3);
  const shown = listed.slice(first, first + Math.ceil(rows.clientHeight / ROW) + 6);
  byId("sheet").replaceChildren(...shown.map((i, k) => {
    const won = isMarked() ? (state.won[i] ? " won" : "") : " open";
    const entry = html("button", { type: "button", class: "entry", role: "option", tabindex: "-1", "aria-selected": i === state.index, style: `top:${(first + k) * ROW}px` },
      html("span", { class: `dot${won}`, title: won === " open" ? "" : won ? "success" : "no success" }),
      html("b", {}, taskOf(i).split("/").pop()), html("i", {}, count(TABLE.number[i])),
      html("small", {}, `${actorOf(i)}, ${count(TABLE.steps[i])} steps`));
    entry.addEventListener("click", () => choose(i));
    return entry;
  }));
}
function reveal() {
  const at = listed.indexOf(state.index), rows = byId("rows");
  if (at < 0) return;
  const above = at * ROW < rows.scrollTop, below = (at + 1) * ROW > rows.scrollTop + rows.clientHeight;
  if (above || below) rows.scrollTop = Math.round((at + 0.5) * ROW - rows.clientHeight / 2);
}
function neighbour(offset) {
  const at = listed.indexOf(state.index);
  const next = listed[Math.min(listed.length - 1, Math.max(0, at + offset))];
  if (next !== undefined && next !== state.index) choose(next);
}

// ---- one episode

async function choose(i, step = 0) {
  state.index = i;
  reveal(); drawRows();
  byId("episode").setAttribute("aria-busy", "true");
  let episode;
  try {
    episode = await source.episode(i);
  } catch (error) {
    if (state.index !== i) return;
    for (const part of [...screens, ...plots]) part.stop();
    screens = []; plots = []; state.episode = null;
    for (const id of ["screens", "plots", "still", "tags"]) byId(id).replaceChildren();
    byId("problem").textContent = error.message; byId("problem").hidden = false; byId("stage").hidden = true;
    byId("which").textContent = `Episode ${count(TABLE.number[i])}, ${taskOf(i)}`; byId("instruction").textContent = wordsOf(i);
    byId("episode").setAttribute("aria-busy", "false");
    return;
  }
  if (state.index !== i) return; // the reader has gone on
  byId("problem").hidden = true; byId("stage").hidden = false;
  state.episode = episode;
  state.clock = state.step = Math.min(Math.max(0, step), episode.steps - 1);
  const spans = successSpans(episode);
  drawTitle(episode, i, spans); drawScreens(episode, i, spans); drawPlots(episode, spans);
  byId("scrub").max = episode.steps - 1;
  byId("marks").replaceChildren(...spans.map(([first, end]) => {
    const mark = html("i", {});
    mark.style.left = `${100 * first / Math.max(1, episode.steps - 1)}%`;
    mark.style.width = `${100 * (end - first) / Math.max(1, episode.steps - 1)}%`;
    return mark;
  }));
  byId("episode").setAttribute("aria-busy", "false");
  history.replaceState(null, "", `#episode=${TABLE.number[i]}`);
  show(); wake();
}
function successSpans(episode) {
  const spans = [];
  episode.success.values.forEach((won, t) => {
    if (!won) return;
    const open = spans[spans.length - 1];
    if (open && open[1] === t - 1) open[1] = t; else spans.push([t, t]);
  });
  return spans;
}
// Whether the dataset says what success is: one without a single success most likely does not.
const isMarked = () => Boolean(state.won) && state.won.includes(1);
function drawTitle(episode, i, spans) {
  byId("which").textContent = `Episode ${count(TABLE.number[i])}, ${taskOf(i)}`;
  byId("instruction").textContent = wordsOf(i) || "(no instruction)";
  const seconds = (step) => `${digits(step / DATA.control_hz, 3)}\u00a0s`;
  const tags = [
    spans.length ? html("span", { class: "won" }, `success at ${seconds(spans[0][0])}`) : isMarked() ? "no success" : null,
    `by ${actorOf(i)}`, `${count(episode.steps)} steps, ${seconds(episode.steps)}`,
    episode.terminated ? "terminated" : null, episode.truncated ? "truncated" : null, episode.seed >= 0 ? `seed ${episode.seed}` : null,
  ].filter(Boolean);
  byId("tags").replaceChildren(...tags.map((tag) => (typeof tag === "string" ? html("span", {}, tag) : tag)));
}
function drawScreens(episode, i, spans) {
  for (const screen of screens) screen.stop();
  const cameras = DATA.cameras.map((camera, k) => ({ screen: makeScreen(camera, k, i, DATA.fps), clip: episode.clips[k] }));
  const space = makeSpace(episode, spans, wake);
  screens = [...cameras.map(({ screen }) => screen), ...(space ? [space] : [])];
  byId("screens").replaceChildren(...screens.map(({ node }) => node));
  for (const { screen, clip } of cameras) screen.start(clip);
}
const MISSING = "missing";
function drawPlots(episode, spans) {
  for (const plot of plots) plot.stop();
  plots = [];
  const still = [], nodes = [];
  const add = (group, array, label, into) => {
    const lines = groupLines(group, array, label);
    const moving = lines.filter((line) => !isMissing(line.values) && (!isStill(line.values) || line.label));
    for (const line of lines.filter((l) => !moving.includes(l))) {
      still.push([group.body, line.name, isMissing(line.values) ? MISSING : `${number(line.values[0])}${group.unit ? " " + group.unit : ""}`]);
    }
    if (!moving.length) return;
    const plot = makePlot({ title: group.body, unit: group.unit, lines: moving }, episode, spans, seek, point);
    plots.push(plot); into.push(plot.node);
  };
  const section = (title, note, fill) => {
    const into = [];
    fill(into);
    if (into.length) nodes.push(html("h3", {}, title, note ? html("small", {}, note) : null), ...into);
  };
  const label = episode.label || null;
  section("Done", label ? "solid: executed; dashed: what the expert would have done" : "", (into) => {
    for (const group of bodies(DATA.action)) add(group, episode.action, label, into);
    add({ body: "reward", unit: "", streams: [{ name: "reward", index: 0 }] }, episode.reward, null, into);
  });
  section("Seen", "", (into) => { for (const group of bodies(DATA.obs)) add(group, episode.obs, null, into); });
  byId("plots").replaceChildren(...nodes);
  const bodiesStill = new Map();
  for (const [body, name, value] of still) bodiesStill.set(body, [...(bodiesStill.get(body) || []), `${name === body ? "" : name + " "}${value}`]);
  byId("still").replaceChildren(...(still.length ? [html("h3", {}, "Constant in this episode"),
    html("dl", {}, ...[...bodiesStill].flatMap(([body, values]) => [html("dt", {}, body), html("dd", {}, values.every((v) => v.endsWith(MISSING)) ? MISSING : values.join(", "))]))] : []));
}

// ---- time

function show() {
  if (!state.episode) return;
  for (const screen of screens) screen.show(state.step, state.playing, state.speed);
  for (const plot of plots) plot.show(state.step, state.pointed);
  byId("scrub").value = state.step;
  byId("clock").replaceChildren(`${(state.step / DATA.control_hz).toFixed(2)} s`, html("small", {}, `step ${count(state.step + 1)} of ${count(state.episode.steps)}`));
}
function seek(step) {
  if (!state.episode) return;
  setPlaying(false);
  state.clock = state.step = Math.min(state.episode.steps - 1, Math.max(0, step));
  show();
}
function point(step) { state.pointed = step; for (const plot of plots) plot.show(state.step, step); }
function tick(now) {
  frame = 0;
  if (!state.episode) return;
  const elapsed = Math.min(0.1, Math.max(0, (now - last) / 1000));
  last = now;
  if (state.playing) {
    state.clock += elapsed * DATA.control_hz * state.speed;
    if (state.clock >= state.episode.steps - 1) { state.clock = state.episode.steps - 1; setPlaying(false); }
    state.step = Math.floor(state.clock);
  }
  show();
  if (state.playing) wake();
}
function wake() { if (!frame) { if (!state.playing) last = performance.now(); frame = requestAnimationFrame(tick); } }
function setPlaying(on) {
  state.playing = on;
  if (on) last = performance.now();
  const shape = on ? "M2 1h4v12H2zM8 1h4v12H8z" : "M2 1l11 6-11 6z";
  byId("play").replaceChildren(svg("svg", { viewBox: "0 0 14 14", "aria-hidden": "true" }, svg("path", { d: shape })));
  if (on) wake();
}
function playOrPause() {
  if (!state.playing && state.episode && state.step >= state.episode.steps - 1) state.clock = state.step = 0;
  setPlaying(!state.playing);
  show();
}

// ---- all of it

byId("play").addEventListener("click", playOrPause);
byId("scrub").addEventListener("input", () => seek(Number(byId("scrub").value)));
byId("filter").addEventListener("input", () => { byId("rows").scrollTop = 0; refilter(); });
byId("rows").addEventListener("scroll", drawRows, { passive: true });
new ResizeObserver(drawRows).observe(byId("rows"));
addEventListener("themechange", () => { for (const plot of plots) plot.draw(); });
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "CANVAS") return;
  if (event.target.type === "search") { if (event.key === "Escape") event.target.blur(); return; }
  const far = event.shiftKey ? 10 : 1;
  const move = {
    " ": playOrPause, ArrowLeft: () => seek(state.step - far), ArrowRight: () => seek(state.step + far),
    Home: () => seek(0), End: () => seek(Infinity), ArrowUp: () => neighbour(-1), ArrowDown: () => neighbour(1),
    "/": () => byId("filter").focus(),
  }[event.key];
  if (!move || (event.key === " " && event.target.tagName === "BUTTON" && event.target.id !== "play")) return;
  event.preventDefault();
  move();
});
choices(byId("outcome"), [["all", "All"], ["won", "Success"], ["lost", "No success"]], "all", (value) => { state.outcome = value; byId("rows").scrollTop = 0; refilter(); });
choices(byId("speed"), [[0.25, "¼"], [1, "1×"], [4, "4×"]], 1, (value) => { state.speed = value; });
state.outcome = "all";
themeButton(byId("theme"));
setPlaying(false);
drawSummary(); refilter();
const wanted = new URLSearchParams(location.hash.slice(1));
const from = TABLE.number.indexOf(Number(wanted.get("episode")));
if (TABLE.number.length) choose(from > 0 ? from : 0, Number(wanted.get("step")) || 0);
source.outcomes().then((won) => {
  state.won = won;
  byId("outcome").hidden = !isMarked();
  drawSummary(); refilter();
  if (state.episode) drawTitle(state.episode, state.index, successSpans(state.episode));
}).catch(() => {});
