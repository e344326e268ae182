// A canvas to draw on with a finger, and the picture that the model sees: means over blocks, 0 to 1.

import { h } from "./dom.js";

const SIDE = 280;

export class Drawing {
  constructor(height, width, channels, changed) {
    Object.assign(this, { height, width, channels, changed });
    this.block = Math.max(1, Math.ceil(SIDE / Math.max(height, width)));
    this.canvas = h("canvas", {
      class: "drawing",
      width: width * this.block,
      height: height * this.block,
      "aria-label": "Draw here with a finger, pen or mouse",
      role: "img",
    });
    const ghost = h("span", { class: "ghost", "aria-hidden": "true" }, "Draw here");
    this.element = h("div", { class: "easel" }, this.canvas, ghost);
    // Read back after every stroke: kept in memory rather than on the graphics card.
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
    this.sight = h("canvas", { class: "sight", width, height, role: "img", "aria-label": "What the model sees" });
    this.#listen();
    this.clear();
  }

  clear() {
    this.#setEmpty(true);
    this.context.fillStyle = "#000";
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    this.#show();
  }

  /** An image of any size, covered by the canvas; grey where the model sees one channel. */
  place(image) {
    this.clear();
    const { width, height } = this.canvas;
    const scale = Math.max(width / image.width, height / image.height);
    const [w, h_] = [image.width * scale, image.height * scale];
    this.context.imageSmoothingQuality = "high";
    this.context.drawImage(image, (width - w) / 2, (height - h_) / 2, w, h_);
    this.#setEmpty(false);
    this.#show();
  }

  /** Values of a sample, (height, width, channels): drawn as blocks. */
  placeValues(values) {
    this.clear();
    for (let place = 0; place < this.height * this.width; place++) {
      const rgb = [0, 1, 2].map((channel) => {
        const value = values[place * this.channels + Math.min(channel, this.channels - 1)];
        return Math.round(255 * Math.min(Math.max(value, 0), 1));
      });
      this.context.fillStyle = `rgb(${rgb.join(" ")})`;
      const [x, y] = [place % this.width, Math.floor(place / this.width)];
      this.context.fillRect(x * this.block, y * this.block, this.block, this.block);
    }
    this.#setEmpty(false);
    this.#show();
  }

  /** What the model sees: float32 of (height, width, channels), 0 for black and 1 for white. */
  pixels() {
    const { data, width } = this.context.getImageData(0, 0, this.canvas.width, this.canvas.height);
    const sums = new Float64Array(this.height * this.width * 3);
    for (let index = 0; index < data.length; index += 4) {
      const place = index / 4;
      const column = Math.floor((place % width) / this.block);
      const row = Math.floor(Math.floor(place / width) / this.block);
      const cell = 3 * (row * this.width + column);
      for (let channel = 0; channel < 3; channel++) sums[cell + channel] += data[index + channel];
    }
    const whole = 255 * this.block * this.block;
    if (this.channels === 3) return Float32Array.from(sums, (sum) => sum / whole);
    return Float32Array.from({ length: sums.length / 3 }, (_, cell) => {
      const [red, green, blue] = sums.subarray(3 * cell, 3 * cell + 3);
      // Rec. 601 luma, as image libraries turn colour to grey; exact for grey itself.
      return red === green && green === blue ? red / whole : (0.299 * red + 0.587 * green + 0.114 * blue) / whole;
    });
  }

  #setEmpty(isEmpty) {
    this.element.classList.toggle("empty", isEmpty);
  }

  #show() {
    const pixels = this.pixels();
    const picture = new ImageData(this.width, this.height);
    for (let place = 0; place < this.width * this.height; place++) {
      for (let channel = 0; channel < 3; channel++) {
        const value = pixels[place * this.channels + Math.min(channel, this.channels - 1)];
        picture.data[4 * place + channel] = Math.round(255 * value);
      }
      picture.data[4 * place + 3] = 255;
    }
    this.sight.getContext("2d").putImageData(picture, 0, 0);
    return pixels;
  }

  #listen() {
    let last = null;
    const place = (event) => {
      const box = this.canvas.getBoundingClientRect();
      const scale = this.canvas.width / box.width;
      return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    };
    const stroke = (event) => {
      const next = place(event);
      this.#segment(last ?? next, next);
      last = next;
      this.#setEmpty(false);
      // A pointer may move several times between two pictures of the screen.
      this.frame ??= requestAnimationFrame(() => {
        this.frame = undefined;
        this.changed(this.#show());
      });
    };
    this.canvas.addEventListener("pointerdown", (event) => {
      if (!event.isPrimary || event.button !== 0) return;
      this.canvas.setPointerCapture(event.pointerId);
      last = null;
      stroke(event);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (last && event.isPrimary) stroke(event);
    });
    for (const name of ["pointerup", "pointercancel"]) this.canvas.addEventListener(name, () => (last = null));
  }

  #segment([fromX, fromY], [x, y]) {
    const { context } = this;
    context.strokeStyle = "#fff";
    context.lineCap = context.lineJoin = "round";
    // As thick as handwriting in the usual sets of digits: 1.5 pixels of 8, 2.3 of 28.
    context.lineWidth = Math.max(1.5 * this.block, this.canvas.width / 12);
    context.beginPath();
    context.moveTo(fromX, fromY);
    context.lineTo(x, y);
    context.stroke();
  }
}
