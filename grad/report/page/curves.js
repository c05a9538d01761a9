// ROC and precision-recall curves of image scores, a line a class.

/** From the highest score down: after each distinct score, how many of both kinds are above. */
function curvePoints(one) {
  const points = [];
  let [g, b] = [one.good.length, one.bad.length];
  while (g || b) {
    const score = Math.max(one.good[g - 1] ?? -Infinity, one.bad[b - 1] ?? -Infinity);
    while (g && one.good[g - 1] === score) g--;
    while (b && one.bad[b - 1] === score) b--;
    points.push([one.good.length - g, one.bad.length - b]);
  }
  return points;
}

function rocCurve(one) {
  const shares = ([good, bad]) => [good / one.good.length, bad / one.bad.length];
  return [[0, 0], ...curvePoints(one).map(shares)];
}

/** Steps, as average precision counts it: the precision of each recall that is reached. */
function precisionCurve(one) {
  const found = [];
  let recall = 0;
  for (const [good, bad] of curvePoints(one)) {
    const next = bad / one.bad.length;
    if (next === recall) continue;
    const precision = bad / (bad + good);
    found.push([recall, precision], [next, precision]);
    recall = next;
  }
  return found;
}

/** The area under the ROC curve, by trapezoids: ties count one half. */
function auroc(one) {
  const points = rocCurve(one);
  const areas = points.slice(1).map(([x, y], i) => ((x - points[i][0]) * (y + points[i][1])) / 2);
  return areas.reduce((sum, area) => sum + area, 0);
}

/** The area under the steps of precision. */
function averagePrecision(one) {
  const points = precisionCurve(one);
  const areas = points.slice(1).map(([x, y], i) => (x - points[i][0]) * y);
  return areas.reduce((sum, area) => sum + area, 0);
}

function rocDot(one) {
  const found = confusion([one]);
  return [found.falsePositives / one.good.length, found.truePositives / one.bad.length];
}

function precisionDot(one) {
  const { truePositives, falsePositives } = confusion([one]);
  if (!truePositives) return null;
  return [truePositives / one.bad.length, truePositives / (truePositives + falsePositives)];
}

function startCurves() {
  const drawable = JUDGED.filter((one) => one.good.length && one.bad.length);
  const without = CLASSES.filter((one) => !drawable.includes(one)).map((one) => one.name);
  byId("curves-note").textContent = without.length
    ? `Curves need good and defective test images; without are ${without.join(", ")}.`
    : "";
  const percents = (values) => (100 * values).toFixed(1);
  fillClassLegend(
    byId("curves-legend"),
    drawable,
    (one) => ` AUROC ${percents(auroc(one))}, AP ${percents(averagePrecision(one))}`,
  );
  startCurve(byId("roc"), drawable, rocCurve, rocDot, "false alarms", "defects found");
  startCurve(byId("pr"), drawable, precisionCurve, precisionDot, "defects found", "precision");
}

function startCurve(container, classes, curve, dot, xTitle, yTitle) {
  const curves = new Map(classes.map((one) => [one, curve(one)]));
  let moveDots = () => {};
  const redraw = drawnToWidth(container, (width) => {
    const side = Math.min(width, 460);
    const axis = (title) => ({ domain: [0, 1], title, format: (v) => `${Math.round(100 * v)} %` });
    const label = `${yTitle} against ${xTitle} for ${classes.length} classes.`;
    const { svg, x, y } = plot(width, side * 0.86, axis(xTitle), axis(yTitle), label);
    const dots = new Map();
    for (const one of [...classes].sort((a, b) => (a === chosen) - (b === chosen))) {
      const faded = chosen && one !== chosen ? "faded" : "";
      const points = curves.get(one).map(([px, py]) => [x(px), y(py)]);
      const drawn = line(points, one.colour, { class: `line ${faded}` });
      drawn.append(shape("title", {}, one.name));
      const mark = shape("circle", { r: 4.5, fill: one.colour, class: `dot ${faded}` });
      mark.append(shape("title", {}, `${one.name} at its threshold`));
      dots.set(one, mark);
      svg.append(drawn, mark);
    }
    moveDots = () => {
      for (const [one, mark] of dots) {
        const at = dot(one);
        mark.setAttribute("visibility", at ? "visible" : "hidden");
        if (!at) continue;
        mark.setAttribute("cx", x(at[0]));
        mark.setAttribute("cy", y(at[1]));
      }
    };
    moveDots();
    container.replaceChildren(svg);
  });
  when("class", redraw);
  when("theme", redraw);
  when("threshold", () => moveDots());
}
