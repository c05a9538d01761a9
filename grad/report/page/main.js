// Starts every part that the page has.

function startTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const show = () => (byId("theme").textContent = isDark() ? "Light" : "Dark");
  byId("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    show();
    announce("theme");
  });
  dark.addEventListener("change", () => {
    show();
    announce("theme");
  });
  show();
}

function startClassChoice() {
  const select = byId("class");
  if (!select) return;
  select.append(...CLASSES.map((one) => element("option", { value: one.index }, one.name)));
  select.addEventListener("change", () => {
    choose(select.value === "" ? null : CLASSES[Number(select.value)]);
  });
  when("class", () => (select.value = chosen ? chosen.index : ""));
}

/** Printing unfolds what is folded; of the images it shows those drawn by then, the first always. */
function startPrinting() {
  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details")) details.open = true;
  });
  const first = [...(byId("gallery")?.children ?? [])].slice(0, 24);
  setTimeout(() => first.forEach((card) => card.picture.fill?.()), 500);
}

startTheme();
startClassChoice();
if (byId("metrics")) {
  makeSortable(byId("metrics-table"));
  addBars(byId("metrics-table"));
}
if (byId("thresholds")) fillThresholdTable(byId("threshold-table").tBodies[0]);
if (byId("images")) {
  startHistogram();
  startGallery();
  startViewer();
  if (byId("curves")) startCurves();
  else startDrift();
}
if (byId("coordinates")) startScatter();
if (byId("training")) startTraining();
startPrinting();
