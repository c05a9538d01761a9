// The inspection page: images in, verdicts out.

import { Server } from "./api.js";
import { Camera } from "./camera.js";
import { hasDecimalComma } from "./csv.js";
import { bytes, drawRamp } from "./heat.js";
import { History } from "./history.js";
import { decodeMap, drawMap } from "./map.js";
import { Problem } from "./problem.js";
import { Region } from "./region.js";
import { digits, factorAt, positionOf, Thresholds } from "./scale.js";
import { askToken } from "./token.js";

const AT_ONCE = 4; // requests of this page in flight
const THUMBNAIL = 160; // pixels, longest side

const $ = (id) => document.getElementById(id);
const server = new Server(askToken);
const camera = new Camera($("video"));
const region = new Region($("region"), showRegion);
const history = new History($("entries"), judge, open);

let thresholds = new Thresholds([]);
let colours = null;
let current = null; // the entry that is shown
let ready = null; // settles when /info has come
let offers = {}; // what /info says of the server
let kept = {}; // of each class, how many images are in the folder of feedback
let busyTeaching = false;
let regionNote = ""; // of the region that was saved

function judge(entry) {
  return thresholds.judge(entry.score, entry.maximum, entry.className);
}

function selectedClass() {
  return $("class").value || null;
}

// ---- the server -------------------------------------------------------------------------------

async function connect() {
  const info = await server.info();
  colours = bytes(info.colours);
  drawRamp($("ramp"), colours);
  offers = info;
  thresholds = new Thresholds(info.thresholds, thresholds.factors);
  const only = info.classes.length === 1 ? info.classes[0] : null;
  const any = new Option(only === null ? "class not stated" : only, "");
  const chosen = $("class").value;
  $("class").replaceChildren(any, ...(only === null ? info.classes.map((n) => new Option(n, n)) : []));
  $("class").value = chosen;
  $("model").textContent = `${info.model} · ${info.classes.join(", ")} · ${info.device}`;
  $("model").title = $("model").textContent;
  $("threshold-field").hidden = !thresholds.exist;
  if (!thresholds.exist) banner(info.note);
  $("said").hidden = $("teaching").hidden = !info.keeps_feedback;
  $("save").hidden = $("learn").hidden = $("region-save").hidden = !info.can_change;
  if (info.keeps_feedback) kept = (await server.feedback()).classes;
  history.show();
  refresh();
}

function banner(text) {
  $("banner").textContent = text ?? "";
  $("banner").hidden = !text;
}

// ---- inspecting -------------------------------------------------------------------------------

/** Score files, a few at once; each result is shown when it comes. */
async function inspect(files) {
  if (!files.length) return;
  clearProblems();
  const waiting = [...files];
  let done = 0;
  const work = async () => {
    for (let file = waiting.shift(); file; file = waiting.shift()) {
      busy(files.length > 1 ? `Inspecting ${done + 1} of ${files.length} …` : "Inspecting …");
      try {
        const entry = await score(file);
        history.add(entry);
        show(entry);
      } catch (error) {
        addProblem(error, file.name);
      }
      done += 1;
    }
  };
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, files.length) }, work));
  busy(null);
}

/** One file's entry of the history. */
async function score(file) {
  await ready;
  const className = selectedClass();
  const start = performance.now();
  let picture = await createImageBitmap(file).catch(() => null);
  const answer = await server.predict(file, { className, preview: picture === null });
  let shown = file;
  if (picture === null) {
    shown = new Blob([bytes(answer.preview)], { type: "image/png" });
    picture = await createImageBitmap(shown);
  }
  if (answer.drift) banner(answer.drift);
  if (answer.model_version !== offers.model_version) await connect();
  const map = await decodeMap(answer.map);
  const entry = {
    time: answer.time,
    name: file.name,
    className,
    score: answer.score,
    maximum: answer.map_maximum,
    width: answer.width,
    height: answer.height,
    seconds: (performance.now() - start) / 1000,
    answer: answered(answer),
    thumbnail: thumbnail(picture),
    file,
    picture: URL.createObjectURL(shown),
    map,
  };
  picture.close();
  return entry;
}

/** What else the server said, without what is large. */
function answered({ class_name, threshold, p_value, p_resolution, regions, model, model_version }) {
  const count = regions?.length ?? null;
  return { class_name, threshold, p_value, p_resolution, regions: count, model, model_version };
}

function thumbnail(picture) {
  const factor = Math.min(1, THUMBNAIL / Math.max(picture.width, picture.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(picture.width * factor));
  canvas.height = Math.max(1, Math.round(picture.height * factor));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", 0.8);
}

function busy(text) {
  $("busy").textContent = text ?? "";
  $("busy").hidden = text === null;
}

function clearProblems() {
  $("problem").hidden = true;
  $("problem").replaceChildren();
}

function addProblem(error, name) {
  if (!(error instanceof Problem)) console.warn(error);
  const line = document.createElement("div");
  line.textContent = name ? `${name}: ${error.message}` : error.message;
  $("problem").append(line);
  $("problem").hidden = false;
}

// ---- showing ----------------------------------------------------------------------------------

/** Show an entry; one from an earlier visit has its thumbnail only. */
function show(entry) {
  current = entry;
  if (!camera.running || !$("live").checked) {
    view("still");
    $("picture").src = entry.picture ?? entry.thumbnail;
  }
  $("class").value = entry.className ?? "";
  region.fit(entry.width, entry.height);
  refresh();
}

/** Show an entry of the history. */
function open(entry) {
  $("live").checked = false;
  show(entry);
  $("stage").scrollIntoView({ block: "nearest", behavior: "smooth" });
}

/** Everything that follows from the current entry and the thresholds. */
function refresh() {
  drawHeat();
  showVerdict();
  showSaid();
  showKept();
  showThreshold();
  showRegion();
  history.refresh(current);
  const { all, anomalous } = history.counts();
  $("counts").textContent = all ? `${anomalous} of ${all} anomalous` : "";
  $("no-entries").hidden = all > 0;
  $("export").disabled = $("clear").disabled = all === 0;
}

function drawHeat() {
  $("heat").hidden = !current?.map;
  if (!current?.map) return;
  const row = thresholds.of(current.className);
  const level = thresholds.markedFrom(current.score, current.maximum, current.className);
  drawMap($("heat"), current.map, row, level, colours, current.width, current.height);
}

function showVerdict() {
  if (!current) return;
  const { verdict, value, threshold } = judge(current);
  const words = { good: "Good", anomalous: "Anomalous", none: "Scored" };
  $("verdict").dataset.verdict = verdict;
  $("word").textContent = words[verdict];
  $("name").textContent = $("name").title = current.name;
  $("score").textContent = digits(current.score);
  $("threshold").textContent = digits(threshold);
  $("value").textContent = value === null ? "–" : value.toFixed(3);
  $("time").textContent = current.seconds === undefined ? "–" : `${current.seconds.toFixed(2)} s`;
  $("gauge").hidden = value === null;
  $("fill").style.width = `${100 * (value ?? 0)}%`;
}

function showThreshold() {
  const name = selectedClass();
  const row = thresholds.of(name);
  if (!row) return;
  const factor = thresholds.factor(name);
  $("slider").value = positionOf(factor);
  if (document.activeElement !== $("number")) $("number").value = digits(row.image);
  $("reset").disabled = factor === 1;
  $("save").disabled = factor === 1 || busyTeaching;
  const share = thresholds.falseAlarms(name);
  const good = row.images === 1 ? "the 1 good image" : `the ${row.images} good images`;
  $("effect").textContent =
    share === null ? "" : `${(100 * share).toFixed(1)} % of ${good} it was made from score above.`;
  $("effect").title = row.note;
  if (factor === 1 && row.moved) $("effect").textContent += ` Moved by hand on ${day(row.moved)}.`;
}

function day(time) {
  return time.slice(0, 16).replace("T", " ") + " UTC";
}

function view(what) {
  $("empty").hidden = true;
  $("picture").hidden = what !== "still";
  $("video").hidden = what !== "video";
  $("capture").textContent = what === "video" ? "Capture" : "Back to camera";
}

// ---- what people give back --------------------------------------------------------------------

/** The buttons below the verdict. Of earlier visits only thumbnails are kept, so nothing is said. */
function showSaid() {
  for (const [id, said] of [["was-good", "good"], ["was-defect", "defect"]]) {
    $(id).disabled = !current?.file || busyTeaching;
    $(id).title = current && !current.file ? "Only of the latest images of this visit." : "";
    $(id).setAttribute("aria-pressed", String(current?.said === said));
  }
}

function showKept() {
  const lines = Object.entries(kept).map(
    ([name, { good, defect }]) => `${name}: ${good} good, ${defect} ${defect === 1 ? "defect" : "defects"}`,
  );
  if (lines.length) $("kept").textContent = lines.join("; ");
  const name = $("class").selectedOptions[0]?.text;
  $("learn").textContent = kept[name] ? `Learn from ${name}` : "Learn from it";
  $("learn").disabled = busyTeaching || !kept[name]?.good;
}

/** One thing at a time; what goes wrong is shown as a problem. */
async function teach(text, work) {
  clearProblems();
  busyTeaching = true;
  busy(text);
  refresh();
  try {
    await work();
  } catch (error) {
    addProblem(error);
  }
  busyTeaching = false;
  busy(null);
  refresh();
}

function say(said) {
  const entry = current;
  return teach("Keeping …", async () => {
    kept = (await server.keep(entry.file, said, entry.className)).classes;
    entry.said = said;
    history.save();
  });
}

function learn() {
  return teach("Learning …", async () => {
    const found = await server.learn(selectedClass());
    const count = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;
    const alarms = count(found.false_alarms, "false alarm");
    const before = found.threshold_before === null ? "" : `, before ${digits(found.threshold_before)}`;
    const parts = [
      `${found.class_name}: learned from ${count(found.images.length, "image")}, ${alarms} among them`,
      `threshold ${digits(found.threshold_after)}${before}`,
    ];
    if (found.defects) parts.push(`${found.found} of ${found.defects} defects found`);
    if (found.note) parts.push(found.note);
    thresholds.move(selectedClass(), 1);
    await connect();
    $("learned").textContent = parts.join("; ").replace(/\.?$/, ".");
  });
}

function saveThreshold() {
  const name = selectedClass();
  return teach("Saving …", async () => {
    await server.saveThreshold(thresholds.of(name).image, name);
    thresholds.move(name, 1);
    await connect();
  });
}

// ---- the region of interest -------------------------------------------------------------------

/** What can be done with what is drawn. */
function showRegion() {
  const { drawing, points, closed } = region;
  $("region-draw").disabled = !current || !$("video").hidden;
  $("region-draw").setAttribute("aria-pressed", String(drawing));
  $("region-bar").hidden = !drawing;
  $("region-undo").disabled = points.length === 0;
  $("region-close").disabled = closed || points.length < 3;
  $("region-download").disabled = !closed;
  $("region-save").disabled = !closed || busyTeaching;
  const whose = selectedClass() ?? (offers.classes?.length > 1 ? "all classes" : null);
  if (!drawing) $("region-hint").textContent = regionNote;
  else if (closed) $("region-hint").textContent = `What is grey will count in nothing${whose ? `, for ${whose}` : ""}.`;
  else $("region-hint").textContent = "Click the corners of what is to be looked at, the first one again at the end.";
}

function drawRegion() {
  regionNote = "";
  if (region.drawing) region.leave();
  else region.start(current.width, current.height);
}

function leaveRegion() {
  if (!region.drawing) return;
  region.leave();
  $("region-draw").focus();
}

async function downloadRegion() {
  clearProblems();
  try {
    download("roi.png", "image/png", await region.picture());
  } catch (error) {
    addProblem(error);
  }
}

async function saveRegion() {
  const { file } = current;
  await teach("Saving …", async () => {
    const saved = await server.saveRegion(await region.picture(), selectedClass());
    regionNote = `Saved. ${saved.note}`;
    leaveRegion();
    await connect();
  });
  if (regionNote && file) await inspect([file]);
}

// ---- the camera -------------------------------------------------------------------------------

async function toggleCamera() {
  clearProblems();
  if (camera.running) {
    stopCamera();
    return;
  }
  try {
    await camera.start();
  } catch (error) {
    addProblem(error);
    return;
  }
  cameraControls(true);
  toCamera();
}

function stopCamera() {
  $("live").checked = false;
  camera.stop();
  cameraControls(false);
  if (current) show(current);
  else {
    $("video").hidden = true;
    $("empty").hidden = false;
  }
}

function cameraControls(on) {
  $("camera").setAttribute("aria-pressed", String(on));
  $("camera").textContent = on ? "Stop camera" : "Camera";
  $("capture").hidden = $("live-label").hidden = !on;
}

function toCamera() {
  view("video");
  $("heat").hidden = true;
  region.leave();
}

async function capture() {
  if ($("video").hidden) toCamera();
  else {
    $("live").checked = false;
    await inspect([await camera.grab()]);
  }
}

/** One frame after the other, shown over the moving picture and kept nowhere. */
async function live() {
  toCamera();
  while ($("live").checked && camera.running) {
    try {
      const entry = await score(await camera.grab());
      if (!$("live").checked) break;
      const before = current;
      show(entry);
      if (before?.live) URL.revokeObjectURL(before.picture);
      current.live = true;
    } catch (error) {
      clearProblems();
      addProblem(error);
      $("live").checked = false;
    }
  }
}

// ---- what people do ---------------------------------------------------------------------------

function move(change) {
  change(selectedClass());
  refresh();
}

function download(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function listen() {
  $("choose").onclick = () => $("files").click();
  $("files").onchange = () => {
    inspect([...$("files").files]);
    $("files").value = "";
  };
  $("camera").onclick = toggleCamera;
  $("capture").onclick = capture;
  $("live").onchange = () => $("live").checked && live();
  camera.onEnded = () => {
    stopCamera();
    addProblem(new Problem("The camera stopped: it was unplugged or taken by another program."));
  };
  $("opacity").oninput = () => ($("heat").style.opacity = $("opacity").value / 100);
  $("class").onchange = () => {
    if (current) current.className = selectedClass();
    refresh();
  };
  $("slider").oninput = () => move((name) => thresholds.move(name, factorAt($("slider").valueAsNumber)));
  $("number").oninput = () => {
    const score = $("number").valueAsNumber;
    if (Number.isFinite(score)) move((name) => thresholds.moveTo(name, score));
  };
  $("number").onblur = showThreshold;
  $("save").onclick = saveThreshold;
  $("was-good").onclick = () => say("good");
  $("was-defect").onclick = () => say("defect");
  $("learn").onclick = learn;
  $("region-draw").onclick = drawRegion;
  $("region-undo").onclick = () => region.undo();
  $("region-close").onclick = () => region.close();
  $("region-download").onclick = downloadRegion;
  $("region-save").onclick = saveRegion;
  window.addEventListener("keydown", (event) => event.key === "Escape" && leaveRegion());
  $("reset").onclick = () => move((name) => thresholds.move(name, 1));
  $("decimal-comma").checked = hasDecimalComma();
  $("export").onclick = () =>
    download("inspections.csv", "text/csv", history.csv($("decimal-comma").checked));
  $("clear").onclick = () => {
    history.clear();
    refresh();
  };
  dragging();
  window.addEventListener("paste", (event) => inspect([...event.clipboardData.files]));
}

function dragging() {
  let depth = 0; // enter and leave come for every element on the way
  const set = (value) => {
    depth = value;
    document.body.classList.toggle("dragging", depth > 0);
  };
  window.addEventListener("dragenter", () => set(depth + 1));
  window.addEventListener("dragleave", () => set(Math.max(0, depth - 1)));
  window.addEventListener("dragover", (event) => event.preventDefault());
  window.addEventListener("drop", (event) => {
    event.preventDefault();
    set(0);
    inspect([...event.dataTransfer.files]);
  });
}

listen();
ready = connect();
ready.catch((error) => banner(error.message));
