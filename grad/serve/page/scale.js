// Where a score lies between a typical good image and the threshold, and thresholds moved by hand.

import { calibrated, jointScore, markedFrom } from "./heat.js";

/** A number with four digits that count, as people write it. */
export function digits(value) {
  return value === null || !Number.isFinite(value) ? "–" : String(Number(value.toPrecision(4)));
}

/** The thresholds of a model. A threshold moved by a factor stays as far above the typical score,
 * times the factor, and the anomaly map's own threshold moves along. */
export class Thresholds {
  static LEAST = 0.05;
  static MOST = 20;

  /**
   * @param {{class_name: string|null, image: number, pixel: number}[]} rows as /info lists them.
   * @param {Map<string|null, number>} factors of thresholds that are moved.
   */
  constructor(rows, factors = new Map()) {
    this.rows = new Map(rows.map((row) => [row.class_name, row]));
    this.factors = factors;
  }

  get exist() {
    return this.rows.size > 0;
  }

  /** The row of a class, moved; null where the model has no calibration. */
  of(className) {
    const row = this.rows.get(className) ?? this.rows.get(null);
    if (!row) return null;
    const factor = this.factor(className);
    return {
      ...row,
      image: row.image_typical + factor * (row.image - row.image_typical),
      pixel: row.pixel_typical + factor * (row.pixel - row.pixel_typical),
    };
  }

  factor(className) {
    return this.factors.get(className) ?? 1;
  }

  /** Move by a factor; 1 is the model's own threshold. */
  move(className, factor) {
    const clamped = Math.min(Thresholds.MOST, Math.max(Thresholds.LEAST, factor));
    if (Math.abs(clamped - 1) < 1e-9) this.factors.delete(className);
    else this.factors.set(className, clamped);
  }

  /** Move to a score. */
  moveTo(className, score) {
    const row = this.rows.get(className) ?? this.rows.get(null);
    this.move(className, (score - row.image_typical) / (row.image - row.image_typical));
  }

  /** What a score, and the largest value of the map, mean: verdict, calibrated value and the
   * threshold in force. */
  judge(score, maximum, className) {
    const row = this.of(className);
    if (!row) return { verdict: "none", value: null, threshold: null };
    const highest = jointScore(score, maximum, row);
    return {
      verdict: highest > row.image ? "anomalous" : "good",
      value: calibrated(highest, row.image_typical, row.image),
      threshold: row.image,
    };
  }

  /** Above which map values are marked: none where an image is good, or nothing is known of it. */
  markedFrom(score, maximum, className) {
    const row = this.of(className);
    return row ? markedFrom(score, maximum, row) : Infinity;
  }

  /** Of the good images that the threshold was made from, the share that scores above it. */
  falseAlarms(className) {
    const row = this.of(className);
    if (!row || !row.good_scores.length) return null;
    return row.good_scores.filter((score) => score > row.image).length / row.good_scores.length;
  }
}

/** The slider's position, 0 to 1000 with the model's threshold in the middle, as a factor. */
export function factorAt(position) {
  return Thresholds.MOST ** ((position - 500) / 500);
}

/** The opposite of factorAt. */
export function positionOf(factor) {
  return Math.round(500 + (500 * Math.log(factor)) / Math.log(Thresholds.MOST));
}
