// The last seconds of a signal as lines on a canvas, in the colours of the page.

import { h } from "./dom.js";

const COLORS = ["--line-1", "--line-2", "--line-3", "--line-4", "--line-5", "--line-6"];
const HEIGHT = 140;

export class Chart {
  constructor(names, length) {
    this.length = length;
    this.rows = [];
    this.canvas = h("canvas", { class: "chart", role: "img", "aria-label": `The last samples of ${names.join(", ")}` });
    const legend = names.map((name, index) =>
      h("span", { class: "legend" }, h("span", { class: `swatch swatch-${(index % COLORS.length) + 1}` }), name),
    );
    this.element = h("figure", {}, this.canvas, h("figcaption", {}, ...legend));
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  push(row) {
    this.rows.push(row);
    if (this.rows.length > this.length) this.rows.shift();
    // Rows may come faster than the screen draws.
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      this.draw();
    });
  }

  clear() {
    this.rows = [];
    this.draw();
  }

  draw() {
    const density = devicePixelRatio;
    const width = this.canvas.clientWidth;
    if (!width) return;
    this.canvas.width = width * density;
    this.canvas.height = HEIGHT * density;
    const context = this.canvas.getContext("2d");
    context.scale(density, density);
    const style = getComputedStyle(this.canvas);
    const [low, high] = this.#range();
    const y = (value) => HEIGHT - 6 - ((value - low) / (high - low)) * (HEIGHT - 12);
    this.#line(context, style.getPropertyValue("--edge"), [[0, y(0)], [width, y(0)]], 1);
    const step = width / Math.max(this.length - 1, 1);
    const first = this.length - this.rows.length;
    for (let index = 0; index < (this.rows[0]?.length ?? 0); index++) {
      const points = this.rows.map((row, place) => [(first + place) * step, y(row[index])]);
      this.#line(context, style.getPropertyValue(COLORS[index % COLORS.length]), points, 1.75);
    }
  }

  #range() {
    let most = 1;
    for (const row of this.rows) for (const value of row) most = Math.max(most, Math.abs(value));
    return [-most, most];
  }

  #line(context, color, points, thickness) {
    context.strokeStyle = color;
    context.lineWidth = thickness;
    context.lineJoin = "round";
    context.beginPath();
    for (const [x, y] of points) context.lineTo(x, y);
    context.stroke();
  }
}
