// A region of interest: a polygon drawn on the picture, and the picture that says so.

import { Problem } from "./problem.js";

const NEAR = 14; // pixels of the screen; a point so near the first one closes the polygon
const SAME = 3; // pixels of the screen, within which a point is the one before
const STEPS = 50; // of an arrow key across the longest side; with Shift a tenth of one
const MOST = 4096; // pixels, longest side of what is made; models keep less
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Region {
  /**
   * @param {SVGSVGElement} svg lies over the picture, with paths named after its own name.
   * @param {() => void} changed is called after each change.
   */
  constructor(svg, changed) {
    this.svg = svg;
    this.changed = changed;
    this.size = [0, 0];
    this.#forget();
    svg.addEventListener("click", (event) => this.#add(this.#at(event)));
    svg.addEventListener("keydown", (event) => this.#key(event));
  }

  get drawing() {
    return !this.svg.hasAttribute("hidden");
  }

  /** Begin on a picture of a size in pixels. */
  start(width, height) {
    this.#forget();
    this.size = [width, height];
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.removeAttribute("hidden");
    this.svg.focus({ preventScroll: true });
    this.#draw();
  }

  leave() {
    this.#forget();
    this.svg.setAttribute("hidden", "");
    this.changed();
  }

  /** What is drawn stays over another picture of the same size. */
  fit(width, height) {
    if (this.drawing && (width !== this.size[0] || height !== this.size[1])) this.leave();
  }

  /** Take the last point back; of a closed polygon, that it is closed. */
  undo() {
    if (this.closed) this.closed = false;
    else this.points.pop();
    this.#draw();
  }

  close() {
    this.closed = this.points.length >= 3;
    this.#draw();
  }

  /** A PNG of the picture's size, white inside. */
  async picture() {
    const factor = Math.min(1, MOST / Math.max(...this.size));
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = this.size.map((side) => Math.max(1, Math.round(side * factor)));
    const context = canvas.getContext("2d");
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.scale(canvas.width / this.size[0], canvas.height / this.size[1]);
    context.fillStyle = "white";
    context.fill(new Path2D(this.#path()), "evenodd");
    const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
    if (!blob) throw new Problem("This browser can't make a picture of that size.");
    return blob;
  }

  #forget() {
    this.points = [];
    this.closed = false;
    this.cross = null; // where the arrow keys are
  }

  #add(point) {
    if (this.closed) return;
    const first = this.points[0];
    const last = this.points.at(-1);
    if (last && this.#distance(last, point) < SAME) return; // a double click
    if (this.points.length >= 3 && this.#distance(first, point) < NEAR) this.closed = true;
    else this.points.push(point);
    this.#draw();
  }

  #key(event) {
    const arrow = ARROWS[event.key];
    if (arrow) {
      const step = (Math.max(...this.size) / STEPS) * (event.shiftKey ? 0.1 : 1);
      const from = this.cross ?? this.points.at(-1) ?? this.size.map((side) => side / 2);
      this.cross = this.#clamp(from.map((value, axis) => value + step * arrow[axis]));
      this.#draw();
    } else if (event.key === "Enter") {
      this.#add(this.cross ?? this.size.map((side) => side / 2));
    } else if (event.key === "Backspace") {
      this.undo();
    } else return;
    event.preventDefault();
  }

  /** Of a pointer, in pixels of the picture; beside the picture its nearest pixel. */
  #at(event) {
    const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(
      this.svg.getScreenCTM().inverse(),
    );
    return this.#clamp([x, y]);
  }

  #clamp(point) {
    return point.map((value, axis) => Math.min(this.size[axis], Math.max(0, value)));
  }

  /** Between two points, in pixels of the screen. */
  #distance(one, other) {
    return Math.hypot(one[0] - other[0], one[1] - other[1]) * this.svg.getScreenCTM().a;
  }

  #path() {
    if (!this.points.length) return "";
    return `M${this.points.map((point) => point.join(" ")).join("L")}${this.closed ? "Z" : ""}`;
  }

  #draw() {
    const [width, height] = this.size;
    const parts = {
      outside: this.closed ? `M0 0H${width}V${height}H0Z${this.#path()}` : "",
      line: this.#path(),
      points: this.points.map(([x, y]) => `M${x} ${y}h0`).join(""),
      cross: this.cross && !this.closed ? this.#crossPath() : "",
    };
    for (const [name, path] of Object.entries(parts)) {
      this.svg.querySelector(`#${this.svg.id}-${name}`).setAttribute("d", path);
    }
    this.changed();
  }

  #crossPath() {
    const [x, y] = this.cross;
    const arm = 10 / this.svg.getScreenCTM().a;
    return `M${x - arm} ${y}h${2 * arm}M${x} ${y - arm}v${2 * arm}`;
  }
}
