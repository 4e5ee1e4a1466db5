// The replay: a small perspective camera on a canvas, turned by dragging.

function replay(episodes) {
  const canvas = byId("replay-canvas"), pen = canvas.getContext("2d");
  const scrub = byId("replay-scrub"), playButton = byId("replay-play"), ghostBox = byId("replay-ghost");
  const STEPS_PER_S = 40, REST_S = 1.4;
  const view = { yaw: -0.55, pitch: 0.42, touched: false };
  let episode, bounds, clock = 0, playing = !stillness, visible = false, last = 0, frame = 0;
  const palette = {};

  function readPalette() {
    const style = getComputedStyle(document.documentElement);
    for (const name of ["ink", "soft", "faint", "rule", "shown", "told", "both", "good", "paper", "raised"]) {
      palette[name] = style.getPropertyValue(`--${name}`).trim();
    }
  }

  // ---- camera
  let width = 0, height = 0;
  function project([x, y, z]) {
    const dx = x - bounds.centre[0], dy = y - bounds.centre[1], dz = z - bounds.centre[2];
    const right = Math.cos(view.yaw) * dx + Math.sin(view.yaw) * dy;
    const ahead = -Math.sin(view.yaw) * dx + Math.cos(view.yaw) * dy;
    const up = Math.cos(view.pitch) * dz + Math.sin(view.pitch) * ahead;
    const depth = Math.cos(view.pitch) * ahead - Math.sin(view.pitch) * dz;
    const distance = bounds.size * 2.6;
    const focal = Math.min(width * 0.95, height * 1.12) / bounds.size;
    const zoom = (focal * distance) / (distance + depth);
    return [width / 2 + right * zoom, height * 0.5 - up * zoom, zoom];
  }
  function fit(tracks) {
    const points = tracks.flat();
    const low = [0, 1, 2].map((axis) => points.reduce((a, p) => Math.min(a, p[axis]), Infinity));
    const high = [0, 1, 2].map((axis) => points.reduce((a, p) => Math.max(a, p[axis]), -Infinity));
    low[2] = Math.min(low[2], 0);
    high[2] += 0.13; // the wrist stands above the hand
    const size = Math.max(0.25, Math.hypot(...high.map((h, axis) => h - low[axis])));
    return { low, high, size, centre: low.map((l, axis) => (l + high[axis]) / 2) };
  }

  // ---- strokes
  function line(points, colour, thickness, alpha = 1, dash = []) {
    if (points.length < 2) return;
    pen.globalAlpha = alpha; pen.strokeStyle = colour; pen.lineWidth = thickness; pen.setLineDash(dash);
    pen.lineCap = "round"; pen.lineJoin = "round"; pen.beginPath();
    points.forEach((point, i) => { const [x, y] = project(point); i ? pen.lineTo(x, y) : pen.moveTo(x, y); });
    pen.stroke(); pen.setLineDash([]); pen.globalAlpha = 1;
  }
  function disc(point, metres, colour, alpha = 1, hollow = false) {
    const [x, y, zoom] = project(point);
    pen.globalAlpha = alpha; pen.beginPath(); pen.arc(x, y, Math.max(2.5, metres * zoom), 0, 2 * Math.PI);
    if (hollow) { pen.strokeStyle = colour; pen.lineWidth = 2; pen.stroke(); } else { pen.fillStyle = colour; pen.fill(); }
    if (!hollow && metres > 0.01) { // a highlight, so that it reads as a ball
      pen.globalAlpha = 0.22 * alpha; pen.fillStyle = "#fff"; pen.beginPath();
      pen.arc(x - 0.3 * metres * zoom, y - 0.3 * metres * zoom, 0.45 * metres * zoom, 0, 2 * Math.PI); pen.fill();
    }
    pen.globalAlpha = 1;
  }
  function shadow([x, y], metres) {
    const [sx, sy, zoom] = project([x, y, 0]);
    pen.globalAlpha = 0.13; pen.fillStyle = palette.ink; pen.beginPath();
    pen.ellipse(sx, sy, metres * zoom, metres * zoom * Math.max(0.12, Math.sin(view.pitch)), 0, 0, 2 * Math.PI);
    pen.fill(); pen.globalAlpha = 1;
  }
  function box(point, half, colour, alpha) {
    const corner = (sx, sy, sz) => [point[0] + sx * half, point[1] + sy * half, point[2] + sz * half];
    for (const s of [-1, 1]) {
      line([corner(-1, -1, s), corner(1, -1, s), corner(1, 1, s), corner(-1, 1, s), corner(-1, -1, s)], colour, 1.8, alpha);
    }
    for (const [sx, sy] of [[-1, -1], [-1, 1], [1, -1], [1, 1]]) line([corner(sx, sy, -1), corner(sx, sy, 1)], colour, 1.8, alpha);
  }
  function label(text, point, colour) {
    const [px, y, zoom] = project(point), x = px + 0.026 * zoom - 4;
    pen.font = "600 12px system-ui, sans-serif"; pen.lineWidth = 4; pen.lineJoin = "round";
    pen.strokeStyle = palette.raised; pen.fillStyle = colour;
    pen.strokeText(text, x + 11, y + 4); pen.fillText(text, x + 11, y + 4);
  }
  // A palm, two fingers as far apart as the gripper is open, and the wrist above.
  function gripper([x, y, z], opening, colour, alpha) {
    const gap = 0.006 + 0.022 * Math.min(1, Math.max(0, opening));
    const at = (dx, dz) => [x + dx, y, z + dz];
    line([at(0, 0.13), at(0, 0.045)], colour, 3.5, alpha);
    line([at(-0.032, 0.045), at(0.032, 0.045)], colour, 4.5, alpha);
    for (const side of [-gap, gap]) line([at(side, 0.044), at(side, -0.01)], colour, 3, alpha);
  }
  function floor() {
    const step = bounds.size > 1.2 ? 0.2 : 0.1;
    const first = (axis) => Math.floor((bounds.low[axis] - 0.1) / step) * step;
    const final = (axis) => Math.ceil((bounds.high[axis] + 0.1) / step) * step;
    for (let x = first(0); x <= final(0) + 1e-6; x += step) line([[x, first(1), 0], [x, final(1), 0]], palette.rule, 1);
    for (let y = first(1); y <= final(1) + 1e-6; y += step) line([[first(0), y, 0], [final(0), y, 0]], palette.rule, 1);
  }

  // ---- one frame
  function draw() {
    if (!width || !episode) return;
    pen.clearRect(0, 0, width, height);
    floor();
    const length = episode.run.hand.length, step = Math.min(Math.floor(clock), length - 1);
    if (episode.demonstration && ghostBox.checked) ghost(episode.demonstration, step);
    const { hand, opening, objects, goal } = episode.run;
    if (goal) {
      const pulse = 0.02 + 0.004 * Math.sin(clock / 6);
      shadow(goal[step], 0.02);
      line([goal[step], [goal[step][0], goal[step][1], 0]], palette.good, 1, 0.5, [2, 4]);
      disc(goal[step], pulse, palette.good, 1, true); disc(goal[step], 0.006, palette.good);
    }
    objects.forEach((track, i) => {
      const colour = i ? palette.both : palette.told;
      shadow(track[step], 0.024);
      line(track.slice(0, step + 1), colour, 2, 0.55);
      i ? box(track[step], 0.02, colour, 1) : disc(track[step], 0.021, colour, 0.95);
    });
    shadow(hand[step], 0.03);
    for (let i = 1; i <= step; i += 1) line([hand[i - 1], hand[i]], palette.shown, 2.4, 0.18 + 0.72 * Math.exp((i - step) / 60));
    line([hand[step], [hand[step][0], hand[step][1], 0]], palette.shown, 1, 0.4, [2, 4]);
    gripper(hand[step], opening[step], palette.ink, 1);
    if (goal) label("goal", goal[step], palette.good);
    objects.forEach((track, i) => label(objects.length > 1 ? `object ${i + 1}` : "object", track[step], i ? palette.both : palette.told));
    const ended = clock >= length - 1;
    if (ended && episode.success) flash(hand[step], Math.min(1, (clock - length + 1) / (STEPS_PER_S * 0.7)));
    byId("replay-verdict").textContent = ended ? (episode.success ? "Success" : "Not solved") : "";
    byId("replay-verdict").style.color = episode.success ? palette.good : palette.soft;
    scrub.value = step;
    byId("replay-step").textContent = `step ${step + 1} of ${length}`;
  }
  function ghost({ hand, opening, objects }, step) {
    const at = Math.min(step, hand.length - 1);
    line(hand, palette.faint, 2, 0.65, [1, 5]);
    objects.forEach((track, i) => {
      line(track, palette.faint, 1.4, 0.5, [1, 5]);
      i ? box(track[at], 0.018, palette.faint, 0.55) : disc(track[at], 0.019, palette.faint, 0.35);
    });
    gripper(hand[at], opening[at], palette.faint, 0.55);
    label("demonstration", [hand[at][0], hand[at][1], hand[at][2] + 0.12], palette.faint);
  }
  function flash(point, progress) {
    disc(point, 0.03 + 0.16 * progress, palette.good, 0.7 * (1 - progress), true);
    disc(point, 0.03 + 0.09 * progress, palette.good, 0.25 * (1 - progress));
  }

  // ---- time
  function tick(now) {
    frame = 0;
    if (!visible) return;
    const elapsed = Math.min(0.1, Math.max(0, (now - last) / 1000)); // a frame may be stamped before it was asked for
    last = now;
    if (playing) {
      clock += elapsed * STEPS_PER_S;
      if (!view.touched) view.yaw = -0.55 + 0.22 * Math.sin(now / 5200);
      if (clock > episode.run.hand.length + REST_S * STEPS_PER_S) clock = 0;
    }
    draw();
    if (playing) frame = requestAnimationFrame(tick);
  }
  function wake() {
    if (frame) return;
    last = performance.now();
    frame = requestAnimationFrame(tick);
  }
  function setPlaying(on) {
    playing = on;
    const shape = on ? "M2 1h4v12H2zM8 1h4v12H8z" : "M2 1l11 6-11 6z";
    playButton.replaceChildren(svg("svg", { viewBox: "0 0 14 14", "aria-hidden": "true" }, svg("path", { d: shape })));
    wake();
  }
  function choose(index) {
    episode = episodes[index];
    const tracks = [episode.run, episode.demonstration].filter(Boolean)
      .flatMap((side) => [side.hand, ...side.objects, ...(side.goal ? [side.goal] : [])]);
    bounds = fit(tracks);
    ghostBox.parentElement.hidden = !episode.demonstration;
    scrub.max = episode.run.hand.length - 1;
    clock = stillness ? episode.run.hand.length - 1 : 0;
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", i === index));
    wake();
  }

  const buttons = episodes.map((one, i) => {
    const button = html("button", { type: "button" }, one.title,
      html("small", {}, `${armOf(one.arm).short} · `, html("span", { class: one.success ? "won" : "" }, one.success ? "success" : "not solved")));
    button.addEventListener("click", () => choose(i));
    return button;
  });
  byId("replay-chooser").replaceChildren(...buttons);
  playButton.addEventListener("click", () => {
    if (!playing && clock >= episode.run.hand.length - 1) clock = 0;
    setPlaying(!playing);
  });
  scrub.addEventListener("input", () => { clock = Number(scrub.value); setPlaying(false); });
  ghostBox.addEventListener("change", wake);

  function turn(dx, dy) {
    view.touched = true;
    view.yaw -= dx; view.pitch = Math.min(1.4, Math.max(0.06, view.pitch + dy));
    wake();
  }
  let held = null;
  canvas.addEventListener("pointerdown", (event) => { held = [event.clientX, event.clientY]; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointermove", (event) => {
    if (!held) return;
    turn((event.clientX - held[0]) * 0.008, (event.clientY - held[1]) * 0.006);
    held = [event.clientX, event.clientY];
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => (held = null));
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, 0.08], ArrowDown: [0, -0.08] }[event.key];
    if (move) { event.preventDefault(); turn(...move); }
  });

  new ResizeObserver(() => {
    const ratio = devicePixelRatio || 1;
    width = canvas.clientWidth; height = canvas.clientHeight;
    canvas.width = width * ratio; canvas.height = height * ratio;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    draw();
  }).observe(canvas);
  new IntersectionObserver(([entry]) => { visible = entry.isIntersecting; if (visible) wake(); }).observe(canvas);
  addEventListener("themechange", () => { readPalette(); draw(); });
  readPalette(); choose(0); setPlaying(playing);
}
