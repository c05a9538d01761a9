// Scores of good and defective images with the threshold as a line that can be dragged.

const STEPS = 1000; // of the slider
const GRIP = 28; // pixels, width of the slider's thumb
const FARTHEST = 4; // beyond this distance scores share the last bar

/**
 * What the histogram shows. Its axis is the distance from what is typical; for a single class it is
 * labelled with scores, for several with calibrated values, which mean the same for each of them.
 */
function histogramView() {
  const classes = chosenClasses(JUDGED);
  const single = classes.length === 1 ? classes[0] : null;
  const distances = (key) =>
    classes.flatMap((one) => one[key].map((score) => distanceOf(score, one)));
  const [good, bad] = [distances("good"), distances("bad")];
  const all = [...good, ...bad, 0, 1];
  const low = Math.max(-FARTHEST, Math.min(...all)) - 0.1;
  const high = Math.min(FARTHEST, Math.max(...all)) + 0.1;
  return {
    classes,
    good,
    bad,
    domain: [low, high],
    cut: Math.max(...all) > high,
    title: single ? "score" : "calibrated value",
    toNumber: single ? (distance) => scoreAt(distance, single) : valueAt,
    toDistance: single ? (score) => distanceOf(score, single) : distanceAt,
    ticks: single ? scoreTicks(single, low, high) : valueTicks(low, high),
    limit: median(classes.map((one) => distanceOf(one.limit, one))),
  };
}

function scoreTicks(one, low, high) {
  const ends = [scoreAt(low, one), scoreAt(high, one)];
  return ticks(ends, 7).map((score) => [distanceOf(score, one), short(score)]);
}

/** Values from the most to the least telling, as many as there is room for. */
function valueTicks(low, high) {
  const found = [];
  for (const value of [
    0.5, 0.1, 0.9, 0.01, 0.99, 0.001, 0.999, 0.3, 0.7, 0.2, 0.03, 0.05, 0.8, 0.97,
  ]) {
    const distance = distanceAt(value);
    const free = found.every(([other]) => Math.abs(other - distance) > (high - low) / 9);
    if (free && distance > low && distance < high) found.push([distance, String(value)]);
  }
  return found;
}

/** Moves the threshold of every class in view; at the right end none is above it. */
function setLimit(view, distance) {
  for (const one of view.classes) {
    one.limit = distance === 1 ? one.threshold.image : scoreAt(distance, one);
    if (distance >= view.domain[1]) {
      one.limit = Math.max(one.limit, one.good.at(-1) ?? -Infinity, one.bad.at(-1) ?? -Infinity);
    }
  }
  view.limit = distance;
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor((sorted.length - 1) / 2)];
}

function startHistogram() {
  const box = byId("histogram");
  const slider = byId("threshold-slider");
  const number = byId("threshold-number");
  let view = histogramView();
  let drawn = null;
  const redraw = drawnToWidth(box, (width) => {
    drawn?.svg.remove();
    drawn = drawHistogram(view, width);
    box.prepend(drawn.svg);
    slider.style.left = `${drawn.area.left - GRIP / 2}px`;
    slider.style.width = `${drawn.area.right - drawn.area.left + GRIP}px`;
    showLimit();
  });
  function showLimit() {
    const [low, high] = view.domain;
    const shown = short(view.toNumber(view.limit));
    slider.value = ((view.limit - low) / (high - low)) * STEPS;
    slider.setAttribute("aria-valuetext", `${shown}: ${verdictText(view.classes)}`);
    if (document.activeElement !== number) number.value = shown;
    drawn?.moveTo(view.limit);
  }
  function move(distance) {
    setLimit(view, distance);
    announce("threshold");
  }
  slider.addEventListener("input", () => {
    const [low, high] = view.domain;
    move(low + (slider.value / STEPS) * (high - low));
  });
  slider.addEventListener("change", () => announce("settled"));
  number.addEventListener("input", () => {
    const distance = view.toDistance(number.valueAsNumber);
    if (!Number.isFinite(distance)) return; // empty, or no value between 0 and 1
    move(distance);
    announce("settled");
  });
  number.addEventListener("blur", showLimit);
  byId("threshold-reset").addEventListener("click", () => {
    move(1);
    announce("settled");
  });
  when("class", () => {
    view = histogramView();
    redraw();
    showVerdicts(view);
  });
  when("threshold", () => {
    showLimit();
    showVerdicts(view);
  });
  fillHistogramLegend();
  showVerdicts(view);
}

function drawHistogram(view, width) {
  const bins = Math.max(20, Math.min(60, Math.floor(width / 14)));
  const [low, high] = view.domain;
  const binOf = (at) => Math.floor(((at - low) / (high - low)) * bins);
  const counts = { good: new Array(bins).fill(0), bad: new Array(bins).fill(0) };
  for (const kind of ["good", "bad"]) {
    for (const at of view[kind]) counts[kind][Math.max(0, Math.min(bins - 1, binOf(at)))]++;
  }
  // Each half has its own scale, as there may be many more of one kind.
  const most = { good: Math.max(4, ...counts.good), bad: Math.max(4, ...counts.bad) };
  const whole = (kind) => ticks([0, most[kind]], 3).filter((n) => n > 0 && Number.isInteger(n));
  const labels = new Map(view.ticks);
  const drawn = plot(
    width,
    300,
    {
      domain: view.domain,
      title: view.title,
      ticks: [...labels.keys()],
      format: (at) => labels.get(at),
    },
    {
      domain: [view.bad.length ? -1.05 : 0, 1.05],
      ticks: [
        0,
        ...whole("good").map((n) => n / most.good),
        ...whole("bad").map((n) => -n / most.bad),
      ],
      format: (share) => Math.round(share > 0 ? share * most.good : -share * most.bad),
      title: "images",
    },
    `Histogram of ${view.good.length} good and ${view.bad.length} defective images by score.`,
  );
  const { svg, area, x, y } = drawn;
  const clips = ["below", "above"].map((side) => {
    const rectangle = shape("rect", { x: 0, y: 0, width: 0, height: 300 });
    svg.append(shape("clipPath", { id: `clip-${side}` }, rectangle));
    return rectangle;
  });
  svg.append(hatching("wrong-good", "--good"), hatching("wrong-bad", "--bad"));
  const wide = (area.right - area.left) / bins;
  const bars = (kind, side, fill) => {
    const group = shape("g", { "clip-path": `url(#clip-${side})`, fill });
    counts[kind].forEach((count, bin) => {
      if (!count) return;
      const end = y((kind === "good" ? count : -count) / most[kind]);
      const top = Math.min(end, y(0));
      const attributes = { x: area.left + bin * wide + 0.5, width: wide - 1, y: top, rx: 1 };
      group.append(shape("rect", { ...attributes, height: Math.max(end, y(0)) - top }));
    });
    svg.append(group);
  };
  bars("good", "below", "var(--good)");
  bars("good", "above", "url(#wrong-good)");
  bars("bad", "below", "url(#wrong-bad)");
  bars("bad", "above", "var(--bad)");
  svg.append(shape("line", { class: "zero", x1: area.left, x2: area.right, y1: y(0), y2: y(0) }));
  if (view.cut) {
    const attributes = { x: area.right, y: area.top + 10, "text-anchor": "end", class: "beyond" };
    svg.append(shape("text", attributes, "and beyond →"));
  }
  const upright = { y1: area.top, y2: area.bottom };
  const limit = shape("line", { class: "limit", ...upright });
  svg.append(shape("line", { class: "reference", x1: x(1), x2: x(1), ...upright }), limit);
  return {
    svg,
    area,
    moveTo(distance) {
      const at = Math.max(area.left, Math.min(area.right, x(distance)));
      limit.setAttribute("x1", at);
      limit.setAttribute("x2", at);
      clips[0].setAttribute("width", at);
      clips[1].setAttribute("x", at);
      clips[1].setAttribute("width", Math.max(0, width - at));
    },
  };
}

/** Stripes for what is judged wrong. */
function hatching(id, colour) {
  const attributes = { id, width: 5, height: 5, patternUnits: "userSpaceOnUse" };
  const stripes = shape("pattern", { ...attributes, patternTransform: "rotate(45)" });
  stripes.append(
    shape("rect", { width: 5, height: 5, fill: `var(${colour})`, opacity: 0.25 }),
    shape("rect", { width: 2.5, height: 5, fill: `var(${colour})` }),
  );
  return stripes;
}

function fillHistogramLegend() {
  const entries = [
    ["good", "good images, upwards"],
    ...(DATA.of === "good" ? [] : [["bad", "defective images, downwards"]]),
    ["wrong", DATA.of === "good" ? "striped: above the threshold" : "striped: judged wrong"],
    ["reference", "dashed: the threshold of the report"],
  ];
  byId("histogram-legend").replaceChildren(
    ...entries.map(([kind, text]) =>
      element("li", {}, element("span", { class: `swatch ${kind}` }), text),
    ),
  );
}

function verdictText(classes) {
  const found = confusion(classes);
  const defects = found.truePositives + found.falseNegatives;
  const good = found.falsePositives + found.trueNegatives;
  return (
    `${found.truePositives} of ${defects} defects found, ` +
    `${found.falsePositives} of ${good} good images called anomalous`
  );
}

/** Rates and counts below the histogram, and the row of each class in the table. */
function showVerdicts(view) {
  const found = confusion(view.classes);
  const defects = found.truePositives + found.falseNegatives;
  const good = found.falsePositives + found.trueNegatives;
  const called = found.truePositives + found.falsePositives;
  const say = (id, text) => (byId(id).textContent = text);
  say("histogram-title", `Scores of ${chosen ? chosen.name : "all classes"}`);
  const limits = view.classes.map((one) => distanceOf(one.limit, one));
  const together = Math.max(...limits) - Math.min(...limits) < 1e-6;
  byId("histogram-note").hidden = together || view.limit >= view.domain[1];
  say("recall", percent(found.truePositives, defects));
  say("recall-note", `recall: ${found.truePositives} of ${defects} defects found`);
  say("false-alarms", percent(found.falsePositives, good));
  say("false-alarms-note", `false alarms: ${found.falsePositives} of ${good} good images`);
  say("precision", percent(found.truePositives, called));
  say("precision-note", `precision: ${found.truePositives} of ${called} alarms are right`);
  say("true-negatives", found.trueNegatives);
  say("false-positives", found.falsePositives);
  say("false-negatives", found.falseNegatives);
  say("true-positives", found.truePositives);
}

/** A row a class with what its threshold does; the name looks at the class. */
function fillThresholdTable(body) {
  for (const one of CLASSES.filter((one) => one.threshold)) {
    const name = element("button", { type: "button" }, one.name);
    name.addEventListener("click", () => choose(chosen === one ? null : one));
    const row = element("tr", {}, element("th", { scope: "row" }, name));
    const [limit, reference, images, recall, alarms] = Array.from({ length: 5 }, () =>
      row.appendChild(element("td", { class: "number" })),
    );
    recall.classList.add("of-defects");
    reference.textContent = short(one.threshold.image);
    images.textContent = `${one.threshold.images} images`;
    const show = () => {
      const found = confusion([one]);
      limit.textContent = short(one.limit);
      recall.textContent = share(found.truePositives, one.bad.length);
      alarms.textContent = share(found.falsePositives, one.good.length);
      row.classList.toggle("chosen", one === chosen);
      row.classList.toggle("moved", one.limit !== one.threshold.image);
    };
    when("threshold", show);
    when("class", show);
    show();
    body.append(row);
  }
}

const share = (part, whole) => (whole ? `${percent(part, whole)} (${part}/${whole})` : "–");
