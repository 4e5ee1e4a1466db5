// The replay: episodes of the evaluation, acted out in a scene.

function replay(episodes) {
  const canvas = byId("replay-canvas"), scene = makeScene(canvas, draw, wake);
  const { pen, palette, fit, line, disc, shadow, box, label, gripper, floor } = scene;
  const scrub = byId("replay-scrub"), playButton = byId("replay-play"), ghostBox = byId("replay-ghost");
  const STEPS_PER_S = 40, REST_S = 1.4;
  let episode, clock = 0, playing = !stillness, visible = false, last = 0, frame = 0;

  // ---- one frame
  function draw() {
    if (!scene.width || !episode) return;
    pen.clearRect(0, 0, scene.width, scene.height);
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
      if (!scene.touched) scene.yaw = -0.55 + 0.22 * Math.sin(now / 5200);
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
    fit(tracks);
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

  new IntersectionObserver(([entry]) => { visible = entry.isIntersecting; if (visible) wake(); }).observe(canvas);
  choose(0); setPlaying(playing);
}
