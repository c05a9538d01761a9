// Scores of good and defective images with the threshold as a line that can be dragged.

const STEPS = 1000; // of the slider
const GRIP = 28; // pixels, width of the slider's thumb

/** What the histogram shows: one class by its scores, several by their calibrated values. */
function histogramView() {
  const classes = chosenClasses(JUDGED);
  if (classes.length !== 1) {
    const values = (key) => classes.flatMap((one) => one[key].map((s) => valueOf(s, one)));
    return {
      classes,
      good: values("good"),
      bad: values("bad"),
      domain: [0, 1],
      title: "anomaly value (0.5 is each class's own threshold)",
      limit: median(classes.map((one) => valueOf(one.limit, one))),
      reference: 0.5,
      set(value) {
        for (const one of classes) one.limit = limitAt(value, one);
      },
    };
  }
  const [one] = classes;
  const all = [...one.good, ...one.bad, one.threshold.image];
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const margin = (high - low) * 0.03 || Math.abs(high) * 0.03 || 1;
  return {
    classes,
    good: one.good,
    bad: one.bad,
    domain: [low - margin, high + margin],
    title: "anomaly score",
    limit: one.limit,
    reference: one.threshold.image,
    set(score) {
      one.limit = score;
    },
  };
}

/** The score of a value; at 0 and 1, which no score reaches, below and above all of the class. */
function limitAt(value, one) {
  const { image, imageTypical } = one.threshold;
  if (value <= 0) return Math.min(one.good[0] ?? image, one.bad[0] ?? image) - (image - imageTypical);
  if (value >= 1) return Math.max(one.good.at(-1) ?? image, one.bad.at(-1) ?? image);
  return scoreAt(value, one);
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
  const toStep = (x) => ((x - view.domain[0]) / (view.domain[1] - view.domain[0])) * STEPS;

  const redraw = drawnToWidth(box, (width) => {
    drawn?.svg.remove();
    drawn = drawHistogram(view, width);
    box.prepend(drawn.svg);
    slider.style.left = `${drawn.area.left - GRIP / 2}px`;
    slider.style.width = `${drawn.area.right - drawn.area.left + GRIP}px`;
    showLimit();
  });
  function showLimit() {
    slider.value = toStep(view.limit);
    slider.setAttribute("aria-valuetext", `${short(view.limit)}, ${verdictText(view.classes)}`);
    if (document.activeElement !== number) number.value = Number(view.limit.toPrecision(6));
    if (drawn) drawn.moveTo(view.limit);
  }
  function move(x, settled) {
    view.set(x);
    view = { ...view, limit: x };
    announce("threshold");
    if (settled) announce("settled");
  }
  const fromSlider = () =>
    view.domain[0] + (slider.value / STEPS) * (view.domain[1] - view.domain[0]);
  slider.addEventListener("input", () => move(fromSlider(), false));
  slider.addEventListener("change", () => announce("settled"));
  number.addEventListener("input", () => {
    if (number.value !== "" && Number.isFinite(number.valueAsNumber)) move(number.valueAsNumber, true);
  });
  number.addEventListener("blur", showLimit);
  byId("threshold-reset").addEventListener("click", () => {
    for (const one of view.classes) one.limit = one.threshold.image;
    view = histogramView();
    announce("threshold");
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
  when("theme", redraw);
  fillHistogramLegend();
  fillThresholdTable(byId("threshold-table").tBodies[0]);
  showVerdicts(view);
}

function drawHistogram(view, width) {
  const bins = Math.max(16, Math.min(60, Math.floor(width / 14)));
  const [low, high] = view.domain;
  const binOf = (x) => Math.max(0, Math.min(bins - 1, Math.floor(((x - low) / (high - low)) * bins)));
  const counts = { good: new Array(bins).fill(0), bad: new Array(bins).fill(0) };
  for (const kind of ["good", "bad"]) for (const x of view[kind]) counts[kind][binOf(x)]++;
  const most = { good: Math.max(1, ...counts.good), bad: Math.max(1, ...counts.bad) };
  const drawn = plot(
    width,
    300,
    { domain: view.domain, title: view.title },
    {
      domain: [-most.bad, most.good],
      ticks: ticks([-most.bad, most.good], 5).filter(Number.isInteger),
      format: (count) => String(Math.abs(count)),
      title: "images",
    },
    `Histogram of ${view.good.length} good and ${view.bad.length} defective images by score.`,
  );
  const { svg, area, x, y } = drawn;
  const clips = ["below", "above"].map((side) => {
    const rectangle = shape("rect", { y: 0, height: 300, x: 0, width: 0 });
    svg.append(shape("clipPath", { id: `clip-${side}` }, rectangle));
    return rectangle;
  });
  svg.append(hatching("wrong-good", "--good"), hatching("wrong-bad", "--bad"));
  const wide = (area.right - area.left) / bins;
  const bars = (kind, side, fill) => {
    const group = shape("g", { "clip-path": `url(#clip-${side})`, fill });
    counts[kind].forEach((count, bin) => {
      if (!count) return;
      const [top, foot] = kind === "good" ? [y(count), y(0)] : [y(0), y(-count)];
      const left = area.left + bin * wide + 0.5;
      group.append(
        shape("rect", { x: left, width: wide - 1, y: top, height: Math.max(1, foot - top), rx: 1 }),
      );
    });
    svg.append(group);
  };
  bars("good", "below", "var(--good)");
  bars("good", "above", "url(#wrong-good)");
  bars("bad", "below", "url(#wrong-bad)");
  bars("bad", "above", "var(--bad)");
  svg.append(shape("line", { class: "zero", x1: area.left, x2: area.right, y1: y(0), y2: y(0) }));
  const upright = (className) => shape("line", { class: className, y1: area.top, y2: area.bottom });
  const reference = upright("reference");
  reference.setAttribute("x1", x(view.reference));
  reference.setAttribute("x2", x(view.reference));
  const limit = upright("limit");
  svg.append(reference, limit);
  return {
    svg,
    area,
    moveTo(value) {
      const at = Math.max(area.left, Math.min(area.right, x(value)));
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
    ["bad", "defective images, downwards"],
    ["wrong", "striped: judged wrong"],
    ["reference", "dashed: where the threshold was"],
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
  for (const one of JUDGED) {
    const name = element("button", { type: "button" }, one.name);
    name.addEventListener("click", () => choose(chosen === one ? null : one));
    const row = element("tr", {}, element("th", { scope: "row" }, name));
    const [limit, reference, images, recall, alarms] = Array.from({ length: 5 }, () =>
      row.appendChild(element("td", { class: "number" })),
    );
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
