// The coordinates of pixels and images in the model's grids.

function startScatter() {
  let colourBy = "class";
  const redraws = ["local", "global"].map((grid) => {
    const container = byId(grid);
    return drawnToWidth(container, (width) => {
      const model = shownModel();
      drawScatter(container, byId(`${grid}-note`), model[grid], width, colourBy, grid);
    });
  });
  const again = () => redraws.forEach((redraw) => redraw());
  for (const input of document.querySelectorAll("#colour-by input")) {
    input.addEventListener("change", () => {
      colourBy = input.value;
      again();
    });
  }
  fillClassLegend(byId("coordinates-legend"), CLASSES);
  when("class", again);
  when("theme", again);
}

/** The model of the class looked at; where each class has its own, the first one's for all. */
function shownModel() {
  const model = DATA.models.find((one) => !chosen || one.classes.includes(chosen.index));
  byId("coordinates-model").textContent =
    DATA.models.length > 1 ? `Each class has its own model; shown: ${model.name}.` : "";
  return model;
}

function drawScatter(container, note, points, width, colourBy, grid) {
  note.textContent = points ? points.note : `The model has no ${grid} grid.`;
  if (!points) {
    container.replaceChildren();
    return;
  }
  const side = Math.min(width, 520);
  const height = points.y ? side : Math.max(140, 40 + 26 * new Set(points.class).size);
  const ratio = window.devicePixelRatio || 1;
  const canvas = element("canvas", { width: width * ratio, height: height * ratio });
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  canvas.setAttribute("role", "img");
  canvas.setAttribute(
    "aria-label",
    `${points.x.length} points in the ${grid} grid. ${points.note}`,
  );
  container.replaceChildren(canvas);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const place = scatterPlace(points, width, height);
  drawCells(context, points, place, width, height);
  const kinds = [cssColour("--good"), cssColour("--bad")];
  // Abnormal points last, as they are few and what one looks for.
  for (const abnormal of [0, 1]) {
    points.x.forEach((_, i) => {
      if (points.abnormal[i] !== abnormal) return;
      const one = CLASSES[points.class[i]];
      const faded = chosen && one !== chosen;
      context.globalAlpha = faded ? 0.08 : abnormal ? 0.75 : 0.55;
      drawPoint(
        context,
        ...place(i),
        abnormal,
        colourBy === "class" ? one.colour : kinds[abnormal],
      );
    });
  }
  context.globalAlpha = 1;
}

/** Pixels of a point by its index: the grid's [-1, 1] where it has cells, else what the points need. */
function scatterPlace(points, width, height) {
  const extent = (values) => [Math.min(...values), Math.max(...values)];
  const domain = (values) => (points.cells ? [-points.steps, points.steps] : extent(values));
  const wide = Math.min(width, 520);
  const left = (width - wide) / 2;
  const x = scale(domain(points.x), [left + 12, left + wide - 12]);
  if (points.y) {
    const y = scale(domain(points.y), [height - 12, 12]);
    return (i) => [x(points.x[i]), y(points.y[i])];
  }
  // One axis: a strip a class, its points spread over the strip by a fixed pattern.
  const strips = [...new Set(points.class)].sort((a, b) => a - b);
  const step = height / strips.length;
  const spread = (i) => ((i * 0.618034) % 1) - 0.5;
  return (i) => [x(points.x[i]), (strips.indexOf(points.class[i]) + 0.5 + 0.7 * spread(i)) * step];
}

function drawCells(context, points, place, width, height) {
  if (!points.cells) return;
  const wide = Math.min(width, 520);
  const left = (width - wide) / 2 + 12;
  const right = left + wide - 24;
  const [top, bottom] = points.y ? [12, height - 12] : [2, height - 2];
  context.strokeStyle = cssColour("--line");
  context.beginPath();
  for (let i = 0; i <= points.cells; i++) {
    const share = i / points.cells;
    context.moveTo(left + share * (right - left), top);
    context.lineTo(left + share * (right - left), bottom);
    if (!points.y) continue;
    context.moveTo(left, top + share * (bottom - top));
    context.lineTo(right, top + share * (bottom - top));
  }
  context.stroke();
}

function drawPoint(context, x, y, abnormal, colour) {
  context.beginPath();
  if (!abnormal) {
    context.fillStyle = colour;
    context.arc(x, y, 2, 0, 2 * Math.PI);
    context.fill();
    return;
  }
  context.strokeStyle = colour;
  context.lineWidth = 1.2;
  context.moveTo(x - 3, y - 3);
  context.lineTo(x + 3, y + 3);
  context.moveTo(x - 3, y + 3);
  context.lineTo(x + 3, y - 3);
  context.stroke();
}
