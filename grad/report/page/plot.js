// Axes and lines in SVG. A plot is drawn anew where its width or the theme changes.

/** Calls `draw(width)` now and whenever the container's width changes. */
function drawnToWidth(container, draw) {
  let width = 0;
  const again = () => width && draw(width);
  new ResizeObserver(([entry]) => {
    const found = Math.floor(entry.contentRect.width);
    if (found === width) return;
    width = found;
    again();
  }).observe(container);
  return again;
}

/** Positions of a value between the ends of an axis, in pixels; the axis may be logarithmic. */
function scale([low, high], [from, to], logarithmic = false) {
  const bend = logarithmic ? Math.log10 : (value) => value;
  const span = bend(high) - bend(low) || 1;
  return (value) => from + ((bend(value) - bend(low)) / span) * (to - from);
}

/** About `count` round values from low to high. */
function ticks([low, high], count, logarithmic = false) {
  if (logarithmic && high / low >= 10) return decades(low, high);
  const rough = (high - low) / Math.max(1, count);
  if (!(rough > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) {
    found.push(Number((k * step).toPrecision(12)));
  }
  return found;
}

/** Powers of ten, and 2 and 5 times them where there are few. */
function decades(low, high) {
  const factors = high / low < 100 ? [1, 2, 5] : [1];
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    found.push(...factors.map((factor) => Number((factor * 10 ** power).toPrecision(6))));
  }
  return found.filter((value) => value >= low * 0.999 && value <= high * 1.001);
}

/**
 * An empty plot: frame, grid lines, tick labels and titles of both axes.
 *
 * x and y are { domain, title, format, logarithmic, ticks }; returns the SVG, the positions
 * x(value) and y(value), and the area { left, right, top, bottom } in pixels.
 */
function plot(width, height, x, y, label) {
  const area = { left: 60, right: width - 20, top: 10, bottom: height - 42 };
  const place = {
    x: scale(x.domain, [area.left, area.right], x.logarithmic),
    y: scale(y.domain, [area.bottom, area.top], y.logarithmic),
  };
  const svg = shape("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
  svg.setAttribute("aria-label", label);
  const axes = shape("g", { class: "axes" });
  const text = (content, attributes) => shape("text", attributes, content);
  const xCount = Math.max(2, Math.min(8, width / 80));
  for (const value of x.ticks ?? ticks(x.domain, xCount, x.logarithmic)) {
    const at = place.x(value);
    axes.append(
      shape("line", { x1: at, x2: at, y1: area.top, y2: area.bottom }),
      text((x.format ?? short)(value), { x: at, y: area.bottom + 16, "text-anchor": "middle" }),
    );
  }
  for (const value of y.ticks ?? ticks(y.domain, 5, y.logarithmic)) {
    const at = place.y(value);
    axes.append(
      shape("line", { x1: area.left, x2: area.right, y1: at, y2: at }),
      text((y.format ?? short)(value), { x: area.left - 6, y: at + 4, "text-anchor": "end" }),
    );
  }
  const middle = (area.left + area.right) / 2;
  axes.append(text(x.title, { x: middle, y: height - 6, "text-anchor": "middle", class: "title" }));
  if (y.title) {
    const turned = `translate(12 ${(area.top + area.bottom) / 2}) rotate(-90)`;
    axes.append(text(y.title, { transform: turned, "text-anchor": "middle", class: "title" }));
  }
  svg.append(axes);
  return { svg, area, ...place };
}

/** A line through points [[x, y], ...] given in pixels. */
function line(points, colour, attributes = {}) {
  const path = points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`);
  return shape("path", { d: path.join(""), stroke: colour, class: "line", ...attributes });
}

/** The classes by colour; a click looks at one class, another click at all again. */
function fillClassLegend(legend, classes, describe = () => "") {
  const entries = classes.map((one) => {
    const swatch = element("span", { class: "swatch" });
    swatch.style.background = one.colour;
    const button = element("button", { type: "button" }, swatch, one.name);
    button.append(element("small", {}, describe(one)));
    button.addEventListener("click", () => choose(chosen === one ? null : one));
    const show = () => button.setAttribute("aria-pressed", String(chosen === one));
    when("class", show);
    show();
    return element("li", {}, button);
  });
  legend.replaceChildren(...entries);
}
