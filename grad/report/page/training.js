// Loss and learning rate over the epochs, a line a model.

function startTraining() {
  const titles = { loss: "loss", rate: "learning rate" };
  for (const [key, title] of Object.entries(titles)) {
    if (byId(key)) startEpochPlot(byId(key), byId(`${key}-readout`), key, title);
  }
}

function startEpochPlot(container, readout, key, title) {
  const models = DATA.models.filter((model) => model[key].length);
  const all = models.flatMap((model) => model[key]).filter((value) => value > 0);
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const logarithmic = high / low > 8;
  const domain = logarithmic ? [low / 1.15, high * 1.15] : [0, high * 1.08];
  const epochs = Math.max(...models.map((model) => model[key].length));
  const redraw = drawnToWidth(container, (width) => {
    const { svg, area, x, y } = plot(
      width,
      260,
      {
        domain: [1, Math.max(2, epochs)],
        title: "epoch",
        ticks: ticks([1, Math.max(2, epochs)], width / 80).filter(Number.isInteger),
      },
      { domain, title, logarithmic },
      `${title} over ${epochs} epochs, from ${short(models[0][key][0])} to ` +
        `${short(models[0][key].at(-1))}.`,
    );
    for (const model of models) {
      const faded = chosen && !model.classes.includes(chosen.index) ? " faded" : "";
      const colour = models.length > 1 ? CLASSES[model.classes[0]].colour : "var(--accent)";
      const points = model[key].map((value, i) => [x(i + 1), y(Math.max(value, domain[0] || 0))]);
      svg.append(line(points, colour, { class: `line${faded}` }));
      if (points.length === 1) {
        svg.append(shape("circle", { cx: points[0][0], cy: points[0][1], r: 4, fill: colour }));
      }
    }
    const hair = shape("line", {
      class: "hair",
      y1: area.top,
      y2: area.bottom,
      visibility: "hidden",
    });
    svg.append(hair);
    svg.addEventListener("pointermove", (event) => {
      const inside = event.clientX - svg.getBoundingClientRect().left;
      const span = area.right - area.left;
      const share = Math.max(0, Math.min(1, (inside - area.left) / span));
      const epoch = Math.round(1 + share * (Math.max(2, epochs) - 1));
      hair.setAttribute("visibility", "visible");
      hair.setAttribute("x1", x(epoch));
      hair.setAttribute("x2", x(epoch));
      const model = models.find((one) => chosen && one.classes.includes(chosen.index)) ?? models[0];
      const value = model[key][epoch - 1];
      const name = models.length > 1 ? `, ${model.name}` : "";
      if (value !== undefined) readout.textContent = `epoch ${epoch}${name}: ${short(value)}`;
    });
    svg.addEventListener("pointerleave", () => {
      hair.setAttribute("visibility", "hidden");
      readout.textContent = "";
    });
    container.replaceChildren(svg);
  });
  when("class", redraw);
  when("theme", redraw);
}
