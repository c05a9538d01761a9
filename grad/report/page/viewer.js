// One image, large: without and with its heat map, and all that is known about it.

let viewed = null;

function openViewer(image) {
  viewed = image;
  const kind = kindOf(image);
  byId("viewer-title").textContent = `${image.one.name}: ${VERDICTS[kind]}`;
  byId("viewer-title").dataset.kind = kind;
  const plain = pictureOf(image, "picture plain");
  const hot = pictureOf(image, "picture");
  plain.fill();
  hot.fill();
  byId("viewer-pictures").replaceChildren(
    element("figure", {}, plain, element("figcaption", {}, "image")),
    element("figure", {}, hot, element("figcaption", {}, "heat map")),
  );
  const facts = {
    file: image.file,
    truth: image.anomalous ? `defective: ${image.defect}` : "good",
    verdict: image.score > image.one.limit ? "anomalous" : "good",
    "calibrated value": `${image.value.toFixed(3)} (0.5 is the threshold)`,
    score: `${short(image.score)}, threshold ${short(image.one.limit)}`,
    "highest in the map": `${short(image.high)}, marked above ${short(image.one.threshold.pixel)}`,
  };
  byId("viewer-facts").replaceChildren(
    ...Object.entries(facts).map(([name, text]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, text)),
    ),
  );
  const place = gallery.list.indexOf(image);
  byId("viewer-previous").disabled = place <= 0;
  byId("viewer-next").disabled = place < 0 || place + 1 >= gallery.list.length;
  if (!byId("viewer").open) byId("viewer").showModal();
}

function startViewer() {
  const viewer = byId("viewer");
  const step = (by) => {
    const next = gallery.list[gallery.list.indexOf(viewed) + by];
    if (next) openViewer(next);
  };
  byId("viewer-previous").addEventListener("click", () => step(-1));
  byId("viewer-next").addEventListener("click", () => step(1));
  byId("viewer-close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  viewer.addEventListener("click", (event) => event.target === viewer && viewer.close());
}
