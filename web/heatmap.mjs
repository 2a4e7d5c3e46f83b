// Blocks from left to right, the layers of a block from top to bottom, one cell a layer, on a canvas.
import { h } from "./dom.mjs";
import { sections } from "./layers.mjs";

const CELL = 14;
const NARROWEST = 3;
const WIDEST = 18;
const HEAD = 22;
const FOOT = 8;
const FONT = "11px Inter, system-ui, sans-serif";

export class HeatMap {
  /** paint(layer) -> colour; crossed(layer): drawn crossed out; point(layer or null): hovered; choose(layer). */
  constructor({ paint, crossed, point, choose, label }) {
    Object.assign(this, { paint, crossed, point, choose, parts: [], spots: [], chosen: null, faint: () => false });
    this.canvas = h("canvas", { className: "sfp8-canvas", tabIndex: 0, role: "img", "aria-label": label });
    this.element = h("div", { className: "sfp8-map" }, this.canvas);
    this.canvas.onmousemove = (event) => this.point(this.at(event));
    this.canvas.onmouseleave = () => this.point(null);
    this.canvas.onclick = (event) => this.at(event) && this.choose(this.at(event));
    this.canvas.onkeydown = (event) => this.key(event);
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(this.element);
    this.themed = new MutationObserver(() => this.draw());
    for (const part of [document.documentElement, document.body]) {
      this.themed.observe(part, { attributes: true, attributeFilter: ["class", "style"] });
    }
  }

  show(layers) {
    this.parts = sections(layers);
    this.draw();
  }

  draw() {
    const width = this.element.clientWidth;
    if (width) paintMap(this, this.canvas, width, devicePixelRatio || 1);
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    // the page may be scaled
    const x = ((event.clientX - box.left) * this.canvas.offsetWidth) / box.width;
    const y = ((event.clientY - box.top) * this.canvas.offsetHeight) / box.height;
    return this.spots.find((s) => x >= s.x && x < s.x + s.w && y >= s.y && y < s.y + CELL)?.layer ?? null;
  }

  key(event) {
    const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [];
    if (dx === undefined || !this.spots.length) return;
    event.preventDefault();
    event.stopPropagation();
    const here = this.spots.find((spot) => spot.layer === this.chosen);
    this.choose((here ? nearest(this.spots, here, dx, dy) : this.spots[0]).layer);
  }

  /** The map alone as PNG, with its legend. */
  png(legend) {
    const canvas = h("canvas");
    const style = getComputedStyle(this.element);
    const dots = { ...this, element: this.element, parts: this.parts, chosen: null, faint: () => false };
    paintMap(dots, canvas, Math.max(720, this.element.clientWidth), 2, { legend, paper: opaque(style) });
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }

  close() {
    this.resized.disconnect();
    this.themed.disconnect();
  }
}

/** The next cell in a direction; the same where there is none. */
export function nearest(spots, here, dx, dy) {
  const ahead = spots.filter((s) => (dx ? s.y === here.y && (s.x - here.x) * dx > 0 : (s.y - here.y) * dy > 0));
  const far = (s) => Math.abs(s.y - here.y) * 1000 + Math.abs(s.x - here.x);
  return ahead.sort((a, b) => far(a) - far(b))[0] ?? here;
}

function opaque(style) {
  return style.getPropertyValue("--comfy-menu-bg").trim() || "#202020";
}

/** Width of the labels and of a cell for a map this wide. */
export function fit(width, labelWidth, blocks) {
  const label = Math.min(labelWidth + 10, Math.floor(width * 0.42));
  const cell = Math.max(NARROWEST, Math.min(WIDEST, Math.floor((width - label) / Math.max(1, blocks))));
  return { label, cell, width: Math.max(width, label + cell * blocks) };
}

function paintMap(map, canvas, wanted, ratio, { legend = [], paper = null } = {}) {
  const pen = canvas.getContext("2d");
  pen.font = FONT;
  const texts = map.parts.flatMap((part) => [part.name, ...part.labels]);
  const longest = Math.max(0, ...texts.map((text) => pen.measureText(text).width));
  const blocks = Math.max(1, ...map.parts.map((part) => part.blocks.length));
  const { label, cell, width } = fit(wanted, longest, blocks);
  const above = legend.length ? 20 * legend.length + 12 : 0;
  const height = above + map.parts.reduce((sum, part) => sum + HEAD + CELL * part.labels.length + FOOT, 0);
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.font = FONT;
  pen.textBaseline = "middle";
  const inks = inksOf(map.element);
  if (paper) fillBox(pen, paper, 0, 0, width, height);
  legend.forEach(({ name, colour }, i) => {
    fillBox(pen, colour ?? inks.empty, 8, 10 + 20 * i, 12, 12);
    write(pen, inks.strong, name, 28, 16 + 20 * i);
  });
  map.spots = [];
  let top = above;
  for (const part of map.parts) {
    paintSection(map, pen, part, { top, label, cell, inks });
    top += HEAD + CELL * part.labels.length + FOOT;
  }
}

function paintSection(map, pen, part, { top, label, cell, inks }) {
  write(pen, inks.strong, cut(pen, part.name || "–", part.name ? label - 8 : label * 2), 0, top + HEAD / 2);
  const step = Math.ceil(24 / cell);
  part.blocks.forEach((block, i) => {
    if (part.name && i % step === 0) write(pen, inks.soft, String(block), label + i * cell, top + HEAD / 2);
  });
  part.labels.forEach((text, j) => {
    const y = top + HEAD + j * CELL;
    write(pen, inks.soft, cut(pen, text, label - 8), 0, y + CELL / 2);
    part.blocks.forEach((block, i) => {
      const layer = part.cells.get(text).get(block);
      if (layer) paintCell(map, pen, layer, label + i * cell, y, cell, inks);
    });
  });
}

function paintCell(map, pen, layer, x, y, w, inks) {
  map.spots.push({ layer, x, y, w });
  pen.globalAlpha = map.faint(layer) ? 0.15 : 1;
  const width = w - (w > 6 ? 2 : 1);
  fillBox(pen, map.paint(layer) ?? inks.empty, x, y, width, CELL - 2);
  if (map.crossed(layer)) cross(pen, x, y, width, CELL - 2);
  pen.globalAlpha = 1;
  if (layer !== map.chosen) return;
  pen.strokeStyle = inks.strong;
  pen.lineWidth = 2;
  pen.strokeRect(x - 1, y - 1, w, CELL);
}

function inksOf(element) {
  const style = getComputedStyle(element);
  const of = (name, other) => style.getPropertyValue(name).trim() || other;
  return { strong: style.color, soft: of("--descrip-text", "#999"), empty: of("--border-color", "#555") };
}

function fillBox(pen, colour, x, y, w, height) {
  pen.fillStyle = colour;
  pen.fillRect(x, y, w, height);
}

function cross(pen, x, y, w, h) {
  pen.strokeStyle = "#fff";
  pen.lineWidth = 1;
  pen.beginPath();
  pen.moveTo(x, y);
  pen.lineTo(x + w, y + h);
  pen.moveTo(x, y + h);
  pen.lineTo(x + w, y);
  pen.stroke();
}

function write(pen, colour, text, x, y) {
  pen.fillStyle = colour;
  pen.fillText(text, x, y);
}

/** A text that fits, without its beginning where it is too long: names differ at their end. */
function cut(pen, text, width) {
  if (pen.measureText(text).width <= width) return text;
  let rest = text;
  while (rest.length > 1 && pen.measureText(`…${rest}`).width > width) rest = rest.slice(1);
  return `…${rest}`;
}
