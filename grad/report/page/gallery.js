// The test images as cards, drawn a screenful at a time.

const CHUNK = 48; // cards added at once

const IMAGES = DATA.images.map((given) => {
  const one = CLASSES[given.class];
  const distance = distanceOf(given.score, one);
  return { ...given, one, distance, value: valueAt(distance) };
});

const KINDS = {
  all: { text: "all", holds: () => true },
  missed: { text: "missed defects", holds: (kind) => kind === "missed" },
  "false-alarm": { text: "false alarms", holds: (kind) => kind === "false-alarm" },
  correct: { text: "correct", holds: (kind) => kind.startsWith("correct") },
};
const VERDICTS = {
  missed: "missed",
  "false-alarm": "false alarm",
  "correct-good": "good",
  "correct-bad": "defect found",
};
const ORDERS = {
  highest: (a, b) => b.distance - a.distance,
  lowest: (a, b) => a.distance - b.distance,
  nearest: (a, b) => fromLimit(a) - fromLimit(b),
};
const fromLimit = (image) => Math.abs(image.distance - distanceOf(image.one.limit, image.one));

/** What the threshold as it is now makes of an image. */
function kindOf(image) {
  const alarm = image.score > image.one.limit;
  if (image.anomalous) return alarm ? "correct-bad" : "missed";
  return alarm ? "false-alarm" : "correct-good";
}

const gallery = { kind: "all", order: "highest", list: [], shown: 0 };

function startGallery() {
  const seen = new IntersectionObserver(
    (entries) => entries.filter((one) => one.isIntersecting).forEach((one) => {
      seen.unobserve(one.target);
      one.target.fill?.();
    }),
    { rootMargin: "400px" },
  );
  const end = new IntersectionObserver(
    ([entry]) => entry.isIntersecting && addCards(seen),
    { rootMargin: "600px" },
  );
  gallery.again = () => {
    gallery.list = IMAGES.filter((image) => !chosen || image.one === chosen)
      .filter((image) => KINDS[gallery.kind].holds(kindOf(image)))
      .sort(ORDERS[gallery.order]);
    gallery.shown = 0;
    byId("gallery").replaceChildren();
    addCards(seen);
    // Observing again asks anew whether the end is in view.
    end.disconnect();
    end.observe(byId("gallery-end"));
    const what = chosen ? `of ${chosen.name}` : "of all classes";
    const count = gallery.list.length;
    byId("shown-count").textContent = `${count} ${count === 1 ? "image" : "images"} ${what}`;
  };
  fillKinds();
  startGalleryControls();
  when("class", gallery.again);
  when("settled", gallery.again);
  when("threshold", oncePerFrame(showCardVerdicts));
  gallery.again();
}

function addCards(seen) {
  const next = gallery.list.slice(gallery.shown, gallery.shown + CHUNK);
  gallery.shown += next.length;
  byId("gallery").append(...next.map((image) => (image.card ??= makeCard(image))));
  for (const image of next) {
    showCardVerdict(image);
    seen.observe(image.card.picture);
  }
}

function makeCard(image) {
  const picture = pictureOf(image, "picture");
  const verdict = element("span", { class: "verdict" });
  const bar = element("span", { class: "value-bar" });
  bar.style.setProperty("--value", image.value);
  const button = element(
    "button",
    { type: "button", title: image.file },
    picture,
    element("span", { class: "card-head" }, verdict, element("b", {}, image.value.toFixed(2))),
    bar,
    element("span", { class: "card-text" }, `${image.one.name} · ${image.defect}`),
  );
  button.addEventListener("click", () => openViewer(image));
  const card = element("li", {}, button);
  return Object.assign(card, { picture, verdict, button });
}

function showCardVerdict(image) {
  const kind = kindOf(image);
  const { card } = image;
  card.dataset.kind = kind;
  card.verdict.textContent = VERDICTS[kind];
  const label = `${image.one.name}, ${image.defect}, ${VERDICTS[kind]}`;
  card.button.setAttribute("aria-label", `${label}, value ${image.value.toFixed(2)}, ${image.file}`);
}

/** While the threshold moves: badges and counts; cards come and go once it was let go. */
function showCardVerdicts() {
  for (const image of gallery.list.slice(0, gallery.shown)) showCardVerdict(image);
  showKindCounts();
}

function fillKinds() {
  for (const [kind, { text }] of Object.entries(KINDS)) {
    const input = element("input", { type: "radio", name: "kind", value: kind });
    input.checked = kind === gallery.kind;
    input.addEventListener("change", () => {
      gallery.kind = kind;
      gallery.again();
    });
    const count = element("b", { "data-count": kind });
    byId("kinds").append(element("label", {}, input, element("span", {}, `${text} `, count)));
  }
  when("class", showKindCounts);
  showKindCounts();
}

function showKindCounts() {
  const kinds = IMAGES.filter((image) => !chosen || image.one === chosen).map(kindOf);
  for (const [kind, { holds }] of Object.entries(KINDS)) {
    byId("kinds").querySelector(`[data-count="${kind}"]`).textContent = kinds.filter(holds).length;
  }
}

function startGalleryControls() {
  byId("order").addEventListener("change", (event) => {
    gallery.order = event.target.value;
    gallery.again();
  });
  const show = () => {
    const style = document.documentElement.style;
    style.setProperty("--heat-opacity", byId("heat-opacity").value / 100);
    document.documentElement.classList.toggle("with-mask", byId("show-mask").checked);
    document.documentElement.classList.toggle("with-marked", byId("show-marked").checked);
  };
  for (const id of ["heat-opacity", "show-mask", "show-marked"]) {
    byId(id).addEventListener("input", show);
  }
  show();
  drawHeatRamp(byId("heat-ramp"));
}
