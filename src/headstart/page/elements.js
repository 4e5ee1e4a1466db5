// What any page is built of: elements, tooltips, number formats, choices, the theme.
// Text from the data only ever enters a page through textContent, never as markup.

const byId = (id) => document.getElementById(id);
const stillness = matchMedia("(prefers-reduced-motion: reduce)").matches;

function build(namespace, tag, attributes, children) {
  const node = namespace ? document.createElementNS(namespace, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
const html = (tag, attributes, ...children) => build(null, tag, attributes, children);
const svg = (tag, attributes, ...children) => build("http://www.w3.org/2000/svg", tag, attributes, children);

// ---- tooltips: one box, shown on hover, tap and keyboard focus

const tipBox = byId("tip");
function tip(node, title, ...lines) {
  node.addEventListener("pointerenter", () => showTip(node, title, lines));
  node.addEventListener("pointerleave", hideTip);
  return node;
}
function showTip(node, title, lines) {
  tipBox.replaceChildren(html("b", {}, title), ...lines.filter(Boolean).map((line) => html("span", {}, line)));
  tipBox.hidden = false;
  const box = node.getBoundingClientRect(), own = tipBox.getBoundingClientRect();
  const left = Math.min(Math.max(8, box.left + box.width / 2 - own.width / 2), innerWidth - own.width - 8);
  const above = box.top - own.height - 8;
  tipBox.style.left = `${left + scrollX}px`;
  tipBox.style.top = `${(above > 60 ? above : box.bottom + 8) + scrollY}px`;
}
// A finger leaves as soon as it lifts: then the tip stays until the page is scrolled.
function hideTip(event) { if (event.pointerType !== "touch") tipBox.hidden = true; }
addEventListener("scroll", () => (tipBox.hidden = true), { passive: true });

// ---- numbers

const percent = (rate) => (rate === null || rate === undefined ? "–" : `${(100 * rate).toFixed(0)}\u00a0%`);
function scaled(value, units, base) {
  if (value === 0) return "0";
  let power = 0;
  while (power < units.length - 1 && value >= base * 0.9995) { value /= base; power += 1; }
  return `${digits(value, 3)}${units[power] ? "\u00a0" + units[power] : ""}`;
}
function digits(value, significant = 2) {
  if (value >= 100) return Math.round(value).toLocaleString("en-US");
  return String(Number(value.toPrecision(significant)));
}
function duration(seconds) {
  if (seconds < 90) return `${digits(seconds)}\u00a0s`;
  if (seconds < 5400) return `${digits(seconds / 60)}\u00a0min`;
  return seconds < 172800 ? `${digits(seconds / 3600)}\u00a0h` : `${digits(seconds / 86400)}\u00a0days`;
}

// ---- choices, and what is drawn to fit

function choices(node, options, chosen, pick) {
  const buttons = options.map(([value, label]) => {
    const button = html("button", { type: "button", "aria-pressed": value === chosen }, label);
    button.addEventListener("click", () => {
      buttons.forEach((other) => other.setAttribute("aria-pressed", other === button));
      pick(value);
    });
    return button;
  });
  node.replaceChildren(...buttons);
}
// Draws now and again whenever the width of the container changes.
function responsive(node, draw) {
  let width = 0;
  const redraw = () => { if (width) node.replaceChildren(draw(width)); };
  const measure = () => {
    if (node.clientWidth !== width) { width = node.clientWidth; redraw(); }
  };
  queueMicrotask(measure); // once the node is in the page
  new ResizeObserver(measure).observe(node);
  return redraw;
}

// ---- light and dark

function themeButton(button) {
  const root = document.documentElement;
  const set = (theme) => {
    root.dataset.theme = theme;
    button.textContent = theme === "dark" ? "Light" : "Dark";
    dispatchEvent(new Event("themechange"));
  };
  const dark = matchMedia("(prefers-color-scheme: dark)");
  set(root.dataset.theme); // the head chose it, before anything was drawn
  dark.addEventListener("change", () => set(dark.matches ? "dark" : "light"));
  button.addEventListener("click", () => set(root.dataset.theme === "dark" ? "light" : "dark"));
}

// ---- SVG

const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
