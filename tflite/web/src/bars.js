// Class probabilities as bars, and the likeliest class in words.

import { h } from "./dom.js";
import { argmax, probabilities } from "./numbers.js";

const MOST_ROWS = 12;

/** Rows stand still while the numbers change: all classes in their order, or of many the likeliest. */
export class Bars {
  constructor(labels, classes) {
    this.names = Array.from({ length: classes }, (_, index) => labels?.[index] ?? `class ${index}`);
    this.rows = Array.from({ length: Math.min(classes, MOST_ROWS) }, () => makeRow());
    this.winner = h("output", { class: "winner", "aria-live": "polite" }, "\u2013");
    this.list = h("div", { class: "bars", "aria-label": "Probability of each class", role: "list" });
    this.list.append(...this.rows.map((row) => row.element));
    const caption = h("p", { class: "caption" }, "Prediction");
    this.heading = h("div", { class: "heading" }, h("div", {}, caption, this.winner));
    this.element = h("div", { class: "results" }, this.heading, this.list);
    this.clear();
  }

  clear() {
    this.winner.textContent = "\u2013";
    this.rows.forEach((row, index) => fill(row, this.names[index], null, false));
  }

  show(outputs) {
    const values = probabilities(outputs);
    const best = values.length === 1 ? -1 : argmax(values);
    const order = values.map((_, index) => index);
    if (values.length > MOST_ROWS) order.sort((a, b) => values[b] - values[a]);
    this.rows.forEach((row, place) => {
      const index = order[place];
      fill(row, this.names[index], values[index], index === best);
    });
    const winner = this.names[Math.max(best, 0)];
    // Only a change is read aloud.
    if (this.winner.textContent !== winner) this.winner.textContent = winner;
  }
}

function makeRow() {
  const name = h("span", { class: "bar-name" });
  const bar = h("span", { class: "bar-fill" });
  const share = h("span", { class: "bar-share" });
  const element = h("div", { class: "bar", role: "listitem" }, name, h("span", { class: "bar-track" }, bar), share);
  return { element, name, bar, share };
}

function fill(row, name, value, isBest) {
  row.name.textContent = name;
  row.name.title = name;
  row.bar.style.transform = `scaleX(${value ?? 0})`;
  row.share.textContent = value === null ? "" : `${(100 * value).toFixed(value >= 0.9995 ? 0 : 1)} %`;
  row.element.dataset.value = value ?? "";
  row.element.classList.toggle("best", isBest);
}
