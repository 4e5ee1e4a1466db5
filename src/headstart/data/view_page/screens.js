// What is seen: cameras, as video or as pictures, and the bodies in space. Each follows the clock.

// A camera's film. Browsers that cannot play its codec get pictures instead.
function makeScreen(camera, index, i, fps) {
  const caption = html("figcaption", {}, camera.name);
  const node = html("figure", { class: "screen" }, caption);
  const stop = { film() {} };
  let show = () => {};
  function pictures() {
    const image = html("img", { alt: `camera ${camera.name}` });
    let wanted = -1, shown = -1, loading = false;
    const load = () => {
      if (loading || wanted === shown) return;
      loading = true; shown = wanted;
      image.src = source.picture(i, index, wanted);
    };
    for (const name of ["load", "error"]) image.addEventListener(name, () => { loading = false; load(); });
    node.replaceChildren(image, caption);
    show = (step) => { wanted = step; load(); };
  }
  function film({ url, start_s: start }) {
    const video = html("video", { playsinline: "", preload: "auto", "aria-label": `camera ${camera.name}` });
    video.muted = true;
    let last = [0, false, 1];
    const failed = () => {
      if (source.picture) { pictures(); show(...last); } else caption.textContent = `${camera.name}: this browser cannot play it`;
    };
    video.addEventListener("error", failed);
    video.src = url;
    node.replaceChildren(video, caption);
    stop.film = () => { video.pause(); video.removeEventListener("error", failed); video.removeAttribute("src"); video.load(); };
    // The middle of a frame, so that rounding never shows its neighbour.
    show = (step, playing, speed) => {
      last = [step, playing, speed];
      const time = start + (step + 0.5) / fps;
      if (playing) {
        video.playbackRate = speed;
        if (video.paused) { video.currentTime = time; video.play().catch(() => {}); }
        else if (Math.abs(video.currentTime - time) > 0.12 * Math.max(1, speed)) video.currentTime = time;
      } else {
        if (!video.paused) video.pause();
        if (Math.abs(video.currentTime - time) > 0.001) video.currentTime = time;
      }
    };
  }
  const clip = source.clip(i, index);
  return { node, show: (...when) => show(...when), stop: () => stop.film(),
    start: (header) => (header ? film({ url: clip.url || clip, start_s: header.start_s }) : pictures()) };
}

const MOST_LABELS = 6; // more would cover one another

// The bodies whose x, y and z are known, acting in a scene. null where there are none.
function makeSpace(episode, spans, wake) {
  const found = places(DATA.obs).map(({ body, role, columns }) => {
    const axes = columns.map((k) => column(episode.obs, k));
    const track = axes[0].map((_, t) => axes.map((axis) => axis[t]));
    return { body, goal: role === "goal", track };
  }).filter(({ track }) => track.every((point) => point.every(Number.isFinite)) && track.some((point) => point.some((v) => v !== 0)));
  if (!found.length) return null;
  const canvas = html("canvas", { tabindex: "0", "aria-label": "The bodies in three dimensions. Drag, or use the arrow keys, to turn them." });
  const node = html("div", { class: "view" }, canvas, html("span", { class: "hint" }, "drag to turn"));
  const handAt = found.findIndex(({ body, goal }) => !goal && /(^|\/)(hand|gripper|eef|ee|tcp)[^/]*$/i.test(body));
  const grip = DATA.obs.findIndex((channel) => /gripper\/opening$/.test(channel.name));
  const opening = grip < 0 ? null : column(episode.obs, grip);
  let step = 0;
  const scene = makeScene(canvas, draw, wake), { pen, palette } = scene;
  scene.closeness = 0.84;
  scene.fit(found.map(({ track }) => track));
  const unit = Math.max(1, scene.bounds.size / 2.5); // large scenes get large balls
  let lane = 0;
  const looks = found.map(({ goal }, k) => (k === handAt ? "shown" : goal ? "good" : ["told", "both", "tuned", "imitation", "soft"][lane++ % 5]));
  function draw() {
    if (!scene.width) return;
    pen.clearRect(0, 0, scene.width, scene.height);
    scene.floor();
    found.forEach(({ track, goal }, k) => {
      const colour = palette[looks[k]], at = track[step];
      scene.shadow(at, 0.024 * unit);
      scene.line([at, [at[0], at[1], 0]], colour, 1, 0.45, [2, 4]);
      if (!goal) trail(track, colour, k === handAt);
      if (goal) { scene.disc(at, 0.02 * unit, colour, 1, true); scene.disc(at, 0.006 * unit, colour); }
      else if (k === handAt && unit < 2) scene.gripper(at, opening ? opening[step] : 1, palette.ink, 1);
      else scene.disc(at, 0.021 * unit, colour, 0.95);
    });
    if (found.length <= MOST_LABELS) found.forEach(({ body, track }, k) => { if (k !== handAt || found.length === 1) scene.label(body.replaceAll("/", " "), track[step], palette[looks[k]]); });
    if (spans.some(([first, last]) => step >= first && step <= last)) {
      pen.font = "600 15px system-ui, sans-serif"; pen.fillStyle = palette.good; pen.fillText("success", 18, 28);
    }
  }
  // The way so far; of a hand the latest part stands out.
  function trail(track, colour, isHand) {
    const stride = Math.max(1, Math.ceil(step / 400));
    if (!isHand) { scene.line(track.slice(0, step + 1).filter((_, t) => t % stride === 0 || t === step), colour, 2, 0.55); return; }
    for (let t = 0; t < step; t += stride) {
      scene.line([track[t], track[Math.min(step, t + stride)]], colour, 2.4, 0.18 + 0.72 * Math.exp((t - step) / 60));
    }
  }
  return { node, show(at) { step = at; draw(); }, stop() {}, start() {} };
}
