// Anomaly maps as the server sends them, drawn over a picture.

import { bytes, contourPath, drawHeat, withoutSmall } from "./heat.js";

const MOST = 2048; // pixels, longest side of what is drawn

/** An anomaly map of a grey PNG, black at `low` and white at `high`; what is not looked at as a
 * canvas that is grey there and clear elsewhere; `least` is a share of the image. */
export async function decodeMap({ png, low, high, roi, least }) {
  const { width, height, rgba } = await decodePixels(png);
  const data = new Float32Array(width * height);
  for (let i = 0; i < data.length; i++) data[i] = low + ((high - low) * rgba[4 * i]) / 255;
  return { width, height, data, least, outside: roi && (await drawOutside(roi)) };
}

async function decodePixels(png) {
  const blob = new Blob([bytes(png)], { type: "image/png" });
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const { width, height } = bitmap;
  const context = newCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { width, height, rgba: context.getImageData(0, 0, width, height).data };
}

async function drawOutside(roi) {
  const { width, height, rgba } = await decodePixels(roi);
  const canvas = newCanvas(width, height);
  const picture = new ImageData(width, height);
  for (let i = 0; i < rgba.length; i += 4) if (!rgba[i]) picture.data.set([128, 128, 128, 178], i);
  canvas.getContext("2d").putImageData(picture, 0, 0);
  return canvas;
}

/** Draws a map over a picture of the given size, and a line around what is above a level. */
export function drawMap(canvas, map, row, level, colours, width, height) {
  const small = newCanvas(map.width, map.height);
  drawHeat(small, map, row, colours);
  const factor = Math.min(1, MOST / Math.max(width, height));
  canvas.width = Math.max(1, Math.round(width * factor));
  canvas.height = Math.max(1, Math.round(height * factor));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  if (map.outside) context.drawImage(map.outside, 0, 0, canvas.width, canvas.height);
  const line = new Path2D();
  line.addPath(
    new Path2D(contourPath(withoutSmall(map, level, map.least), level)),
    new DOMMatrix().scale(canvas.width, canvas.height),
  );
  const wide = Math.max(1.5, Math.max(canvas.width, canvas.height) / 300);
  for (const [size, colour] of [[2.5, "#000b"], [1, "#fff"]]) {
    context.lineWidth = size * wide;
    context.strokeStyle = colour;
    context.stroke(line);
  }
}

function newCanvas(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}
