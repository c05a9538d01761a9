// What was inspected: kept in this browser, shown as thumbnails, exported as CSV.

import { csv } from "./csv.js";

const PLACE = location.pathname.replace(/\/$/, ""); // of this model, where there are several
const KEY = `grad-history${PLACE}`;
const MOST = 300;
const WITH_PICTURES = 40; // the newest keep file, picture and anomaly map in memory

export class History {
  /**
   * @param {HTMLElement} list where thumbnails go.
   * @param {(entry: object) => {verdict: string, value: number|null, threshold: number|null}} judge
   * @param {(entry: object) => void} open shows an entry.
   */
  constructor(list, judge, open) {
    this.list = list;
    this.judge = judge;
    this.open = open;
    this.entries = load();
  }

  add(entry) {
    this.entries.unshift(entry);
    this.entries.splice(MOST);
    for (const old of this.entries.slice(WITH_PICTURES)) release(old);
    this.list.prepend(this.#item(entry));
    while (this.list.children.length > MOST) this.list.lastElementChild.remove();
    this.save();
  }

  clear() {
    for (const entry of this.entries) release(entry);
    this.entries = [];
    this.list.replaceChildren();
    localStorage.removeItem(KEY);
  }

  /** Build the list anew. */
  show() {
    this.list.replaceChildren(...this.entries.map((entry) => this.#item(entry)));
  }

  /** Judge all again, after a threshold was moved; `current` is the one that is open. */
  refresh(current) {
    this.entries.forEach((entry, index) => {
      this.#label(this.list.children[index].firstElementChild, entry, entry === current);
    });
  }

  /** How many are anomalous, of how many. */
  counts() {
    const bad = this.entries.filter((entry) => this.judge(entry).verdict === "anomalous").length;
    return { all: this.entries.length, anomalous: bad };
  }

  /** All as a table, oldest first; what only the server knows is left out where a threshold was
   * moved, or another class chosen, since it answered. */
  csv(decimalComma) {
    const rows = [...this.entries].reverse().map((entry) => {
      const { verdict, value, threshold } = this.judge(entry);
      const { answer } = entry;
      const sameClass = answer && (answer.class_name ?? null) === entry.className;
      return {
        ...answer,
        name: entry.name,
        class_name: entry.className,
        score: entry.score,
        map_maximum: entry.maximum,
        width: entry.width,
        height: entry.height,
        time: entry.time,
        value,
        threshold,
        is_anomalous: verdict === "none" ? null : verdict === "anomalous",
        p_value: sameClass ? answer.p_value : null,
        p_resolution: sameClass ? answer.p_resolution : null,
        regions: sameClass && threshold === answer.threshold ? answer.regions : null,
      };
    });
    return csv(rows, decimalComma);
  }

  #item(entry) {
    const item = document.createElement("li");
    const button = Object.assign(document.createElement("button"), {
      type: "button",
      className: "entry",
      title: entry.name,
    });
    const picture = Object.assign(document.createElement("img"), { src: entry.thumbnail, alt: "" });
    const label = Object.assign(document.createElement("span"), { className: "label" });
    const file = Object.assign(document.createElement("span"), {
      className: "file",
      textContent: entry.name,
    });
    const note = Object.assign(document.createElement("span"), { className: "note" });
    button.append(picture, label, file, note);
    button.addEventListener("click", () => this.open(entry));
    item.append(button);
    this.#label(button, entry, false);
    return item;
  }

  #label(button, entry, isCurrent) {
    const { verdict, value } = this.judge(entry);
    const words = { good: "Good", anomalous: "Anomalous", none: "Scored" };
    const number = value ?? entry.score;
    button.dataset.verdict = verdict;
    const said = { good: "was good", defect: "was a defect" }[entry.said] ?? "";
    button.querySelector(".label").textContent = `${words[verdict]} ${number.toFixed(2)}`;
    button.querySelector(".note").textContent = said;
    button.setAttribute("aria-current", String(isCurrent));
  }

  /** Keep all for later visits, as far as there is room. */
  save() {
    for (let keep = this.entries.length; keep > 0; keep = Math.floor(keep / 2)) {
      try {
        localStorage.setItem(KEY, JSON.stringify(this.entries.slice(0, keep), stored));
        return;
      } catch {
        // The browser's room is full: the older half is kept for this session only.
      }
    }
  }
}

/** Pictures and maps are too large for the browser's storage. */
function stored(key, value) {
  return ["picture", "map", "file"].includes(key) ? undefined : value;
}

function load() {
  try {
    const entries = JSON.parse(localStorage.getItem(KEY)) ?? [];
    return entries.filter((entry) => typeof entry.score === "number").slice(0, MOST);
  } catch {
    return [];
  }
}

function release(entry) {
  if (entry.picture) URL.revokeObjectURL(entry.picture);
  entry.picture = null;
  entry.map = null;
  entry.file = null;
}
