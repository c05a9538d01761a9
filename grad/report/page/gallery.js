// The test images as cards; their pictures are drawn as they come into view.

const FIRST = 48; // cards that are there at first
const MORE = 96; // cards that a press of the button adds

const IMAGES = DATA.images.map((given) => {
  const one = CLASSES[given.class];
  const score = jointScore(given.score, given.maximum, one.threshold);
  const distance = distanceOf(score, one);
  return { ...given, raw: given.score, one, score, distance, value: valueAt(distance) };
});

const KINDS = {
  all: { text: "all", holds: () => true },
  missed: { text: "missed defects", holds: (kind) => kind === "missed" },
  "false-alarm": { text: "false alarms", holds: (kind) => kind === "false-alarm" },
  correct: { text: "correct", holds: (kind) => kind.startsWith("correct") },
};
if (DATA.of === "good") {
  delete KINDS.missed;
  KINDS["false-alarm"].text = "above the threshold";
  KINDS.correct.text = "below";
}
const VERDICTS = {
  missed: "missed",
  "false-alarm": DATA.of === "good" ? "odd" : "false alarm",
  "correct-good": "good",
  "correct-bad": "found",
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

/** Draws a picture when it comes near the view. */
const drawOnSight = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      drawOnSight.unobserve(target);
      target.fill?.();
    }
  },
  { rootMargin: "400px" },
);

function startGallery() {
  fillKinds();
  startGalleryControls();
  when("class", refillGallery);
  when("settled", refillGallery);
  when("threshold", oncePerFrame(showCardVerdicts));
  refillGallery();
}

/** The images that the filters let through, from the first one on. */
function refillGallery() {
  gallery.list = IMAGES.filter((image) => !chosen || image.one === chosen)
    .filter((image) => KINDS[gallery.kind].holds(kindOf(image)))
    .sort(ORDERS[gallery.order]);
  gallery.shown = 0;
  byId("gallery").replaceChildren();
  addCards(FIRST);
  const count = gallery.list.length;
  const whose = chosen ? `of ${chosen.name}` : "of all classes";
  byId("shown-count").textContent = `${count} ${count === 1 ? "image" : "images"} ${whose}`;
}

function addCards(count) {
  const next = gallery.list.slice(gallery.shown, gallery.shown + count);
  gallery.shown += next.length;
  byId("gallery").append(...next.map((image) => (image.card ??= makeCard(image))));
  for (const image of next) {
    showCardVerdict(image);
    drawOnSight.observe(image.card.picture);
  }
  const left = gallery.list.length - gallery.shown;
  byId("more").hidden = left === 0;
  byId("show-more").textContent = `Show ${Math.min(MORE, left)} more`;
  byId("show-all").textContent = `Show all ${gallery.list.length}`;
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
    element("span", { class: "card-text" }, `${image.one.name} · ${image.defect}\nscore ${short(image.raw)}`),
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
  card.button.setAttribute(
    "aria-label",
    `${label}, value ${image.value.toFixed(2)}, ${image.file}`,
  );
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
      refillGallery();
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
    refillGallery();
  });
  byId("show-more").addEventListener("click", () => addCards(MORE));
  byId("show-all").addEventListener("click", () => addCards(gallery.list.length));
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
  drawRamp(byId("heat-ramp"), COLOURS);
}
