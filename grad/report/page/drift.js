// Scores of good images in the order of their files, with a running median of each class.

const WINDOW = 15; // images of a running median, at most

function startDrift() {
  const container = byId("drift-plot");
  fillClassLegend(byId("drift-legend"), JUDGED, (one) => ` ${one.drift}`);
  const redraw = drawnToWidth(container, (width) => {
    const shown = chosenClasses(JUDGED);
    const positions = new Map(shown.map((one) => [one, driftOf(one)]));
    const all = [...positions.values()].flat();
    const domain = [Math.max(-FARTHEST, Math.min(...all, 0)), Math.min(FARTHEST, Math.max(...all, 1))];
    const labels = new Map(valueTicks(domain[0] - 0.1, domain[1] + 0.1));
    const { svg, area, x, y } = plot(
      width,
      260,
      { domain: [1, Math.max(2, ...shown.map((one) => one.ordered.length))], title: "image" },
      {
        domain: [domain[0] - 0.1, domain[1] + 0.1],
        title: "calibrated value",
        ticks: [...labels.keys()],
        format: (at) => labels.get(at),
      },
      shown.map((one) => `${one.name}: ${one.drift}`).join("; "),
    );
    for (const [one, found] of positions) {
      const place = (value, i) => [x(i + 1), y(Math.max(domain[0], Math.min(domain[1], value)))];
      found.forEach((value, i) => {
        const [cx, cy] = place(value, i);
        svg.append(shape("circle", { cx, cy, r: 2.5, fill: one.colour, opacity: 0.5 }));
      });
      svg.append(line(runningMedian(found).map(place), one.colour));
    }
    const level = { x1: area.left, x2: area.right, y1: y(1), y2: y(1) };
    svg.append(shape("line", { class: "reference", ...level }));
    container.replaceChildren(svg);
  });
  when("class", redraw);
  when("theme", redraw);
}

function driftOf(one) {
  return one.ordered.map(([score, maximum]) =>
    distanceOf(jointScore(score, maximum, one.threshold), one),
  );
}

function runningMedian(values) {
  const reach = Math.min(WINDOW, Math.floor(values.length / 5)) >> 1;
  return values.map((_, i) => median(values.slice(Math.max(0, i - reach), i + reach + 1)));
}
