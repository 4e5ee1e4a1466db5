// A small perspective scene on a canvas, in metres, turned by dragging or with the arrow keys.

// draw() paints a frame; wake() is called when the view was turned and has to be painted anew.
function makeScene(canvas, draw, wake) {
  const pen = canvas.getContext("2d");
  const palette = {};
  const scene = { pen, palette, yaw: -0.55, pitch: 0.42, touched: false, closeness: 1, bounds: null, width: 0, height: 0 };

  function readPalette() {
    const style = getComputedStyle(document.documentElement);
    for (const name of ["ink", "soft", "faint", "rule", "shown", "told", "both", "tuned", "imitation", "good", "paper", "raised"]) {
      palette[name] = style.getPropertyValue(`--${name}`).trim();
    }
  }

  // ---- camera
  function project([x, y, z]) {
    const dx = x - scene.bounds.centre[0], dy = y - scene.bounds.centre[1], dz = z - scene.bounds.centre[2];
    const right = Math.cos(scene.yaw) * dx + Math.sin(scene.yaw) * dy;
    const ahead = -Math.sin(scene.yaw) * dx + Math.cos(scene.yaw) * dy;
    const up = Math.cos(scene.pitch) * dz + Math.sin(scene.pitch) * ahead;
    const depth = Math.cos(scene.pitch) * ahead - Math.sin(scene.pitch) * dz;
    const distance = scene.bounds.size * 2.6;
    const focal = scene.closeness * Math.min(scene.width * 0.95, scene.height * 1.12) / scene.bounds.size;
    const zoom = (focal * distance) / (distance + depth);
    return [scene.width / 2 + right * zoom, scene.height * 0.5 - up * zoom, zoom];
  }
  // Where everything that will be drawn lies: tracks of points.
  function fit(tracks) {
    const points = tracks.flat();
    const low = [0, 1, 2].map((axis) => points.reduce((a, p) => Math.min(a, p[axis]), Infinity));
    const high = [0, 1, 2].map((axis) => points.reduce((a, p) => Math.max(a, p[axis]), -Infinity));
    low[2] = Math.min(low[2], 0);
    high[2] += 0.13; // the wrist stands above the hand
    const size = Math.max(0.25, Math.hypot(...high.map((h, axis) => h - low[axis])));
    scene.bounds = { low, high, size, centre: low.map((l, axis) => (l + high[axis]) / 2) };
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
    pen.ellipse(sx, sy, metres * zoom, metres * zoom * Math.max(0.12, Math.sin(scene.pitch)), 0, 0, 2 * Math.PI);
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
    const step = scene.bounds.size > 1.2 ? 0.2 * 2 ** Math.max(0, Math.ceil(Math.log2(scene.bounds.size / 4))) : 0.1;
    const first = (axis) => Math.floor((scene.bounds.low[axis] - 0.1) / step) * step;
    const final = (axis) => Math.ceil((scene.bounds.high[axis] + 0.1) / step) * step;
    for (let x = first(0); x <= final(0) + 1e-6; x += step) line([[x, first(1), 0], [x, final(1), 0]], palette.rule, 1);
    for (let y = first(1); y <= final(1) + 1e-6; y += step) line([[first(0), y, 0], [final(0), y, 0]], palette.rule, 1);
  }

  // ---- turning
  function turn(dx, dy) {
    scene.touched = true;
    scene.yaw -= dx; scene.pitch = Math.min(1.4, Math.max(0.06, scene.pitch + dy));
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
    scene.width = canvas.clientWidth; scene.height = canvas.clientHeight;
    canvas.width = scene.width * ratio; canvas.height = scene.height * ratio;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    draw();
  }).observe(canvas);
  addEventListener("themechange", () => { readPalette(); draw(); });
  readPalette();
  return Object.assign(scene, { project, fit, line, disc, shadow, box, label, gripper, floor });
}
