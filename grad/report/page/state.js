// The page's data, and the two things that a reader changes: the class looked at and the thresholds.

const DATA = JSON.parse(byId("data").textContent);
const CLASSES = DATA.classes.map((given, index) => ({
  ...given,
  good: jointScores(given.good, given.goodMaxima, given.threshold),
  bad: jointScores(given.bad, given.badMaxima, given.threshold),
  index,
  colour: classColour(index, DATA.classes.length),
  limit: given.threshold?.image, // as set in this page
}));
const JUDGED = CLASSES.filter((one) => one.threshold && one.good.length + one.bad.length);

/** "class", "threshold" (while it moves), "settled" (when it was let go), "theme". */
const changes = new EventTarget();
const announce = (what) => changes.dispatchEvent(new Event(what));
const when = (what, work) => changes.addEventListener(what, work);

let chosen = null; // a class, null for all
function choose(one) {
  chosen = one;
  announce("class");
}
const chosenClasses = (from = CLASSES) => (chosen ? from.filter((one) => one === chosen) : from);

/** Those of many images, ascending. */
function jointScores(scores, maxima, threshold) {
  return scores.map((score, i) => jointScore(score, maxima[i], threshold)).sort((a, b) => a - b);
}

/** Where a score lies: 0 is typical of good images, 1 the threshold that the report came with. */
function distanceOf(score, { threshold }) {
  return (score - threshold.image_typical) / (threshold.image - threshold.image_typical);
}
function scoreAt(distance, { threshold }) {
  return threshold.image_typical + distance * (threshold.image - threshold.image_typical);
}
/** The calibrated value of a distance: 0.1 where it is 0, 0.5 at the threshold, 0.9 as far above it. */
const valueAt = (distance) => calibrated(distance, 0, 1);
const distanceAt = (value) => 1 + Math.log(value / (1 - value)) / Math.log(9);

/** Numbers of images by truth and verdict; scores are ascending. */
function confusion(classes) {
  const sum = { truePositives: 0, falseNegatives: 0, falsePositives: 0, trueNegatives: 0 };
  for (const one of classes) {
    const badBelow = countUpTo(one.bad, one.limit);
    const goodBelow = countUpTo(one.good, one.limit);
    sum.falseNegatives += badBelow;
    sum.truePositives += one.bad.length - badBelow;
    sum.trueNegatives += goodBelow;
    sum.falsePositives += one.good.length - goodBelow;
  }
  return sum;
}

/** How many of ascending scores are at most `limit`. */
function countUpTo(scores, limit) {
  let low = 0;
  let high = scores.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (scores[middle] <= limit) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Ten colours that are told apart best, more by equal steps around the colour wheel. */
function classColour(index, count) {
  const best = [
    "#4c78c8",
    "#e0812d",
    "#3f9a5a",
    "#c8475a",
    "#8a63c4",
    "#9a6a4f",
    "#d46bb0",
    "#7b8794",
    "#a8a12f",
    "#2fa5b5",
  ];
  if (count <= best.length) return best[index];
  return `hsl(${(index * 360) / count} 58% ${index % 2 ? 42 : 58}%)`;
}
