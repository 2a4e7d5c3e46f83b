// A list of which only the rows in view exist; arrow keys move the selection.
import { h } from "./dom.mjs";

const MORE = 6; // rows beyond either edge

/** rows: what to show; height: of one row in pixels; fill(element, row); choose(row). */
export class List {
  constructor({ height, fill, choose, label }) {
    Object.assign(this, { height, fill, choose, rows: [], chosen: -1, pool: new Map(), top: 0 });
    this.space = h("div", { className: "sfp8-space", role: "presentation" });
    this.element = h("div", { className: "sfp8-list", role: "listbox", tabIndex: 0, "aria-label": label }, this.space);
    this.element.addEventListener("scroll", () => this.later(), { passive: true });
    this.element.addEventListener("keydown", (event) => this.key(event));
    this.resized = new ResizeObserver(() => this.later());
    this.resized.observe(this.element);
  }

  show(rows, chosen = -1) {
    this.rows = rows;
    this.chosen = chosen;
    this.space.style.height = `${rows.length * this.height}px`;
    for (const element of this.pool.values()) element.remove();
    this.pool.clear();
    this.draw();
  }

  later() {
    this.waiting ??= requestAnimationFrame(() => {
      this.waiting = null;
      this.draw();
    });
  }

  draw() {
    this.top = this.element.scrollTop;
    const first = Math.max(0, Math.floor(this.top / this.height) - MORE);
    const last = Math.min(this.rows.length, Math.ceil((this.top + this.element.clientHeight) / this.height) + MORE);
    for (const [index, element] of this.pool) {
      if (index >= first && index < last) continue;
      element.remove();
      this.pool.delete(index);
    }
    for (let index = first; index < last; index++) if (!this.pool.has(index)) this.add(index);
  }

  add(index) {
    const element = h("div", { className: "sfp8-row", role: "option", id: `sfp8-row-${index}` });
    element.style.transform = `translateY(${index * this.height}px)`;
    element.setAttribute("aria-setsize", this.rows.length);
    element.setAttribute("aria-posinset", index + 1);
    element.setAttribute("aria-selected", index === this.chosen);
    element.onclick = () => this.choose(this.rows[index]);
    this.fill(element, this.rows[index]);
    this.pool.set(index, element);
    this.space.append(element);
  }

  /** Mark a row and bring it into view. */
  select(index) {
    this.pool.get(this.chosen)?.setAttribute("aria-selected", false);
    this.chosen = index;
    if (index < 0) return;
    this.element.setAttribute("aria-activedescendant", `sfp8-row-${index}`);
    const top = index * this.height;
    const bottom = top + this.height - this.element.clientHeight;
    if (this.element.scrollTop > top) this.element.scrollTop = top;
    else if (this.element.scrollTop < bottom) this.element.scrollTop = bottom;
    this.draw();
    this.pool.get(index)?.setAttribute("aria-selected", true);
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.element.clientHeight / this.height) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (!(event.key in steps) || !this.rows.length) return;
    event.preventDefault();
    event.stopPropagation();
    const at = Math.min(this.rows.length - 1, Math.max(0, this.chosen + steps[event.key]));
    this.choose(this.rows[at]);
  }

  close() {
    this.resized.disconnect();
    cancelAnimationFrame(this.waiting);
  }
}
