// What heat.py draws, for browsers: heat maps, the line around what is marked, and the scale of both.
//
// The inspection page and the report share this file; in the report all scripts are one, so it
// imports nothing. A row is a threshold as metrics.json has it: image, pixel, image_typical,
// pixel_typical, joint. A map is { width, height, data } with raw values.

const LN9 = Math.log(9);

/** The scale where 0.5 is the threshold and 0.1 a typical good image; as thresholds.py. */
export function calibrated(score, typical, threshold) {
  return 1 / (1 + Math.exp((-LN9 * (score - threshold)) / (threshold - typical)));
}

/** The image score or, where the map's largest value is further up, the score as far up as that. */
export function jointScore(score, maximum, row) {
  if (!row?.joint || !Number.isFinite(maximum)) return score;
  const distance = (maximum - row.pixel_typical) / (row.pixel - row.pixel_typical);
  return Math.max(score, row.image_typical + distance * (row.image - row.image_typical));
}

/** Above which map values of an image are marked; none is in an image that is good. */
export function markedFrom(score, maximum, row) {
  if (jointScore(score, maximum, row) <= row.image) return Infinity;
  return maximum > row.pixel ? row.pixel : Math.min(row.image, (1 - 1e-5) * maximum);
}

/** Raw bytes of base64 text. */
export function bytes(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

/**
 * Draws heat at the map's own size; what shows the canvas makes it larger.
 *
 * @param {Uint8Array} colours red, green, blue and opacity of 256 steps of the calibrated value.
 * @param {object|null} row without one, from the map's lowest value to its highest.
 */
export function drawHeat(canvas, { width, height, data }, row, colours) {
  let heat = (value) => calibrated(value, row.pixel_typical, row.pixel);
  if (!row) {
    const [low, high] = data.reduce(([l, h], v) => [Math.min(l, v), Math.max(h, v)], [Infinity, 0]);
    heat = (value) => (value - low) / (high - low || 1);
  }
  const picture = new ImageData(width, height);
  data.forEach((value, i) => {
    const step = 4 * Math.round(255 * heat(value));
    picture.data.set(colours.subarray(step, step + 4), 4 * i);
  });
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

/** The scale of colours, for a legend. */
export function drawRamp(canvas, colours) {
  drawHeat(canvas, { width: 256, height: 1, data: [...Array(256).keys()] }, null, colours);
}

/** A map without what is above a level in smaller regions than a share of it, as regions.py; the
 * largest region stays in any case. */
export function withoutSmall(map, level, share) {
  const { width, height, data } = map;
  const least = Math.ceil(share * width * height);
  if (!(least > 1) || level === Infinity) return map;
  const region = new Int32Array(data.length);
  const areas = [0];
  for (let start = 0; start < data.length; start++) {
    if (region[start] || !(data[start] > level)) continue;
    const [number, stack] = [areas.push(0) - 1, [start]];
    region[start] = number;
    while (stack.length) {
      const at = stack.pop();
      areas[number]++;
      const [x, y] = [at % width, Math.floor(at / width)];
      for (let v = Math.max(0, y - 1); v <= Math.min(height - 1, y + 1); v++) {
        for (let u = Math.max(0, x - 1); u <= Math.min(width - 1, x + 1); u++) {
          const near = v * width + u;
          if (region[near] || !(data[near] > level)) continue;
          region[near] = number;
          stack.push(near);
        }
      }
    }
  }
  const most = Math.min(least, Math.max(...areas));
  const kept = data.map((value, at) => (areas[region[at]] < most && value > level ? level : value));
  return { width, height, data: kept };
}

/** Where a map, its values taken at the pixels' centres, crosses a level (marching squares): the
 * path in a unit square. */
export function contourPath({ width, height, data }, level) {
  const at = (x, y) =>
    x < 0 || y < 0 || x >= width || y >= height ? -Infinity : data[y * width + x] - level;
  const cut = (a, b) => (a === -Infinity || b === -Infinity ? 0.5 : a / (a - b));
  let path = "";
  if (level === Infinity) return path;
  for (let y = -1; y < height; y++) {
    for (let x = -1; x < width; x++) {
      const [a, b, c, d] = [at(x, y), at(x + 1, y), at(x + 1, y + 1), at(x, y + 1)];
      const crossings = [];
      if (a > 0 !== b > 0) crossings.push([x + cut(a, b), y]);
      if (b > 0 !== c > 0) crossings.push([x + 1, y + cut(b, c)]);
      if (c > 0 !== d > 0) crossings.push([x + 1 - cut(c, d), y + 1]);
      if (d > 0 !== a > 0) crossings.push([x, y + 1 - cut(d, a)]);
      crossings.forEach(([cx, cy], i) => {
        const [px, py] = [(cx + 0.5) / width, (cy + 0.5) / height];
        path += `${i % 2 ? "L" : "M"}${px.toFixed(4)} ${py.toFixed(4)}`;
      });
    }
  }
  return path;
}
