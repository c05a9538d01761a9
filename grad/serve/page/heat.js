// Anomaly maps as the server sends them, and how they are coloured.

import { calibrated } from "./scale.js";

/** Raw bytes of base64 text. */
export function bytes(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

/** An anomaly map of a grey PNG, black at `low` and white at `high`. */
export async function decodeMap({ png, low, high }) {
  const blob = new Blob([bytes(png)], { type: "image/png" });
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const { width, height } = bitmap;
  const context = newCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  const levels = new Uint8Array(width * height);
  for (let i = 0; i < levels.length; i++) levels[i] = rgba[4 * i];
  return { levels, width, height, low, high };
}

/** Colours of the heat map: 256 steps of red, green, blue and opacity. */
export class Colours {
  /** @param {string} base64 1024 bytes, as /info sends them. */
  constructor(base64) {
    this.table = bytes(base64);
  }

  /** Draw a map over a picture of the given size.
   *
   * @param {object|null} threshold a row of Thresholds; without one, from the map's least value to
   *   its largest. */
  draw(canvas, map, threshold, width, height) {
    const steps = new Uint8Array(256);
    for (let level = 0; level < 256; level++) {
      const score = map.low + ((map.high - map.low) * level) / 255;
      const value = threshold
        ? calibrated(score, threshold.pixel_typical, threshold.pixel)
        : level / 255;
      steps[level] = Math.round(255 * value);
    }
    const pixels = new ImageData(map.width, map.height);
    for (let i = 0; i < map.levels.length; i++) {
      const step = 4 * steps[map.levels[i]];
      pixels.data.set(this.table.subarray(step, step + 4), 4 * i);
    }
    const small = newCanvas(map.width, map.height);
    small.getContext("2d").putImageData(pixels, 0, 0);
    const factor = Math.min(1, 1024 / Math.max(width, height));
    canvas.width = Math.max(1, Math.round(width * factor));
    canvas.height = Math.max(1, Math.round(height * factor));
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
  }
}

function newCanvas(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}
