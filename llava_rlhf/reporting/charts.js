"use strict";
// Every figure of the page, drawn from its numbers; the values of a step under the pointer, a finger, or the arrow keys.
const SVG = "http://www.w3.org/2000/svg";
const MARGIN = { left: 52, right: 12, top: 8, bottom: 34 };

function shape(name, given, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(given)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// Round numbers from low to high, about so many.
function ticks(low, high, about, whole) {
  const rough = (high - low) / about, power = 10 ** Math.floor(Math.log10(rough));
  const off = (factor) => Math.abs(Math.log(factor * power / rough));
  let step = power * [1, 2, 5, 10].reduce((best, factor) => (off(factor) < off(best) ? factor : best));
  if (whole) step = Math.max(1, Math.round(step));
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at += 1) found.push(at * step);
  return found;
}

function range(values) {
  const low = Math.min(...values), high = Math.max(...values);
  const room = high > low ? (high - low) * 0.06 : Math.abs(high) * 0.1 || 1;
  return [low - room, high + room];
}

// Bands lie around the first curve, in its colour.
const colour = (one, place) => (one.shade ? `s0 ${one.shade}` : `s${place % 8}`);

class Chart {
  constructor(box, figure) {
    Object.assign(this, { box, figure, bars: figure.kind === "bars", at: null });
    const { series } = figure;
    this.xs = [...new Set(series.flatMap((one) => one.x))].sort((a, b) => a - b);
    this.yRange = range([...series.flatMap((one) => [...one.y, ...(one.low || [])]), ...(this.bars ? [0] : [])]);
    if (this.bars) this.yRange[0] = 0;
    this.tip = element("div", undefined, "tip");
    this.tip.setAttribute("role", "status");
    this.tip.hidden = true;
    box.tabIndex = 0;
    box.setAttribute("role", "group");
    this.draw();
    if (series.length > 1) box.after(this.legend());
    new ResizeObserver(() => this.width !== box.clientWidth && this.draw()).observe(box);
    box.addEventListener("pointermove", (event) => this.point(event));
    box.addEventListener("pointerdown", (event) => this.point(event));
    box.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && this.leave());
    box.addEventListener("blur", () => this.leave());
    box.addEventListener("keydown", (event) => this.key(event));
  }

  places() { return this.bars ? this.xs.length - 1 : this.xs.length; }

  // The x of a place; of a bar its middle.
  middle(place) { return this.bars ? (this.xs[place] + this.xs[place + 1]) / 2 : this.xs[place]; }

  draw() {
    this.width = this.box.clientWidth || 320;
    this.height = Number(this.box.dataset.height) || 190;
    const [first, last] = [this.xs[0], this.xs.at(-1)], pad = first === last ? 1 : 0;
    const inside = { x: this.width - MARGIN.left - MARGIN.right, y: this.height - MARGIN.top - MARGIN.bottom };
    this.x = (value) => MARGIN.left + ((value - first + pad) / (last - first + 2 * pad)) * inside.x;
    this.y = (value) => MARGIN.top + (1 - (value - this.yRange[0]) / (this.yRange[1] - this.yRange[0])) * inside.y;
    const picture = shape("svg", { width: this.width, height: this.height, "aria-hidden": "true" });
    for (const value of ticks(...this.yRange, 4)) {
      picture.append(shape("line", { class: value === 0 ? "zero" : "rule", x1: MARGIN.left, x2: this.width - MARGIN.right,
        y1: this.y(value), y2: this.y(value) }));
      picture.append(shape("text", { x: MARGIN.left - 6, y: this.y(value) + 4, "text-anchor": "end" }, brief(value)));
    }
    for (const value of ticks(first - pad, last + pad, Math.max(2, inside.x / 70), !this.bars && !this.figure.continuous)) {
      picture.append(shape("text", { x: this.x(value), y: this.height - 20, "text-anchor": "middle" }, brief(value)));
    }
    picture.append(shape("text", { x: MARGIN.left + inside.x / 2, y: this.height - 4, "text-anchor": "middle" },
      this.figure.xlabel));
    this.figure.series.forEach((one, place) => picture.append(...this.marks(one, place)));
    this.cross = shape("line", { class: "cross", y1: MARGIN.top, y2: this.height - MARGIN.bottom, visibility: "hidden" });
    picture.append(this.cross);
    this.box.replaceChildren(picture, this.tip);
    if (this.at !== null) this.show(this.at);
  }

  marks(one, place) {
    const given = { class: `mark ${colour(one, place)}${one.dashed ? " dashed" : ""}` }, { x, y } = this;
    if (this.bars) {
      const stairs = one.y.map((height, bin) => `H${x(one.x[bin])}V${y(height)}H${x(one.x[bin + 1])}`);
      return [shape("path", { ...given, d: `M${x(one.x[0])},${y(0)}${stairs.join("")}V${y(0)}` })];
    }
    const points = (values) => one.x.map((at, index) => `${x(at)},${y(values[index])}`);
    if (one.low) {
      const around = [...points(one.y), ...points(one.low).reverse()];
      return [shape("polygon", { class: `area ${colour(one, place)}`, points: around.join(" ") })];
    }
    if (one.x.length === 1) return [shape("circle", { ...given, cx: x(one.x[0]), cy: y(one.y[0]), r: 4 })];
    return [shape("polyline", { ...given, points: points(one.y).join(" ") })];
  }

  legend() {
    const made = element("p", undefined, "legend");
    this.figure.series.forEach((one, place) => {
      const kind = `${one.low ? "patch" : "line"} ${colour(one, place)}${one.dashed ? " dashed" : ""}`;
      const entry = element("span");
      entry.append(element("i", undefined, kind), one.label);
      made.append(entry);
    });
    return made;
  }

  point(event) {
    const across = event.clientX - this.box.getBoundingClientRect().left;
    let best = 0;
    for (let place = 1; place < this.places(); place += 1) {
      if (Math.abs(this.x(this.middle(place)) - across) < Math.abs(this.x(this.middle(best)) - across)) best = place;
    }
    this.show(best);
  }

  key(event) {
    const end = this.places() - 1, from = this.at;
    const to = { ArrowRight: from === null ? 0 : Math.min(from + 1, end), ArrowLeft: from === null ? end : Math.max(from - 1, 0),
      Home: 0, End: end }[event.key];
    if (event.key === "Escape") this.leave();
    if (to === undefined) return;
    event.preventDefault();
    this.show(to);
  }

  lines(place) {
    const at = this.xs[place];
    return this.figure.series.flatMap((one, order) => {
      const index = this.bars ? place : one.x.indexOf(at);
      if (index < 0 || one.y[index] === undefined) return [];
      const value = one.low ? `${brief(one.low[index])} to ${brief(one.y[index])}` : brief(one.y[index]);
      return [[colour(one, order), one.label, value]];
    });
  }

  show(place) {
    this.at = place;
    const middle = this.x(this.middle(place)), at = this.xs[place];
    const head = this.bars ? `${this.figure.xlabel} ${brief(at)} to ${brief(this.xs[place + 1])}`
      : `${this.figure.xlabel} ${brief(at)}`;
    this.tip.replaceChildren(element("b", head), ...this.lines(place).map(([kind, label, value]) => {
      const line = element("span");
      line.append(element("i", undefined, `patch ${kind}`), label ? `${label} ` : "", element("strong", value));
      return line;
    }));
    this.tip.hidden = false;
    this.cross.setAttribute("x1", middle);
    this.cross.setAttribute("x2", middle);
    this.cross.setAttribute("visibility", "visible");
    const room = this.box.clientWidth - this.tip.offsetWidth;
    this.tip.style.left = `${Math.max(0, Math.min(room, middle > this.width / 2 ? middle - this.tip.offsetWidth - 10 : middle + 10))}px`;
  }

  leave() {
    this.at = null;
    this.tip.hidden = true;
    this.cross.setAttribute("visibility", "hidden");
  }
}

for (const box of document.querySelectorAll(".chart")) new Chart(box, page.figures[Number(box.dataset.figure)]);
