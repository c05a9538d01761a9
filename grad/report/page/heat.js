// Heat maps and outlines over a picture. Colours are those of Detector's overlays, of the calibrated
// value, so that a colour means the same in every class; or they stretch to the highest of a class.

const HEAT_COLOURS = DATA.heat.colours.match(/../g).map((hex) => parseInt(hex, 16));

let stretched = false;

/** What a map's value becomes: 0 is clear and cold, 1 the hottest colour. */
function heatScale(one) {
  const { pixel, pixelTypical } = one.threshold;
  if (!stretched) return (value) => valueAt((value - pixelTypical) / (pixel - pixelTypical));
  one.highest ??= Math.max(...IMAGES.filter((image) => image.one === one).map(({ high }) => high));
  const span = one.highest - pixelTypical || 1;
  return (value) => Math.min(1, Math.max(0, (value - pixelTypical) / span));
}

/** Draws heat to a canvas of the map's own size; CSS makes it larger and fades it. */
function drawHeat(canvas, { width, height, data }, heatOf) {
  const picture = new ImageData(width, height);
  data.forEach((value, i) => {
    const heat = heatOf(value);
    const colour = 3 * Math.round(255 * heat);
    picture.data[4 * i] = HEAT_COLOURS[colour];
    picture.data[4 * i + 1] = HEAT_COLOURS[colour + 1];
    picture.data[4 * i + 2] = HEAT_COLOURS[colour + 2];
    picture.data[4 * i + 3] = 255 * DATA.heat.opacity * Math.sqrt(heat);
  });
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

/** The values of an image's map, { width, height, data }, read from its grey picture. */
async function heatValues(image) {
  const { width, height, pixels } = await decodePixels(`data:image/webp;base64,${image.heat}`);
  const data = new Float32Array(width * height);
  for (let i = 0; i < data.length; i++) {
    data[i] = image.low + ((image.high - image.low) * pixels[4 * i]) / 255;
  }
  return { width, height, data };
}

async function decodePixels(source) {
  const picture = element("img", { src: source });
  await picture.decode();
  const { width, height } = picture;
  const context = element("canvas", { width, height }).getContext("2d", {
    willReadFrequently: true,
  });
  context.drawImage(picture, 0, 0);
  return { width, height, pixels: context.getImageData(0, 0, width, height).data };
}

/** The outlines of the true defect and of what GRAD marks, as SVG that covers the picture. */
async function outlines(image, { width, height, data }) {
  const svg = shape("svg", { viewBox: "0 0 1 1", preserveAspectRatio: "none", class: "outlines" });
  const add = (className, path) =>
    svg.append(
      shape("path", { class: `${className} halo`, d: path }), // seen on bright pictures as well
      shape("path", { class: className, d: path }),
    );
  if (image.mask) {
    const mask = await decodePixels(`data:image/png;base64,${image.mask}`);
    const inside = (x, y) => mask.pixels[4 * (y * mask.width + x)] > 0;
    add("mask-line", borderPath(mask.width, mask.height, inside));
  }
  add("marked-line", contourPath(width, height, data, image.one.threshold.pixel));
  return svg;
}

/** The sides of pixels that lie between inside and outside, straight runs as one, in a unit square. */
function borderPath(width, height, inside) {
  const at = (x, y) => x >= 0 && y >= 0 && x < width && y < height && inside(x, y);
  const round = (value) => value.toFixed(4);
  let path = "";
  for (let y = 0; y <= height; y++) {
    for (const [start, length] of runs(width, (x) => at(x, y) !== at(x, y - 1))) {
      path += `M${round(start / width)} ${round(y / height)}h${round(length / width)}`;
    }
  }
  for (let x = 0; x <= width; x++) {
    for (const [start, length] of runs(height, (y) => at(x, y) !== at(x - 1, y))) {
      path += `M${round(x / width)} ${round(start / height)}v${round(length / height)}`;
    }
  }
  return path;
}

/** Where a condition holds without a break: [start, length] of each stretch of 0..count - 1. */
function runs(count, holds) {
  const found = [];
  for (let i = 0, start = -1; i <= count; i++) {
    const here = i < count && holds(i);
    if (here && start < 0) start = i;
    if (here || start < 0) continue;
    found.push([start, i - start]);
    start = -1;
  }
  return found;
}

/** Where values, taken at the pixels' centres, cross a level (marching squares), in a unit square. */
function contourPath(width, height, values, level) {
  const at = (x, y) =>
    x < 0 || y < 0 || x >= width || y >= height ? -Infinity : values[y * width + x] - level;
  const cut = (a, b) => (a === -Infinity || b === -Infinity ? 0.5 : a / (a - b));
  let path = "";
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

/** The scale of colours, for a legend. */
function drawHeatRamp(canvas) {
  const context = canvas.getContext("2d");
  const picture = context.createImageData(256, 1);
  for (let i = 0; i < 256; i++) {
    picture.data.set(HEAT_COLOURS.slice(3 * i, 3 * i + 3), 4 * i);
    picture.data[4 * i + 3] = 255;
  }
  context.putImageData(picture, 0, 0);
}

/** Thumbnail, heat map and outlines, one above the other; `fill` draws them, once, `paint` the heat anew. */
function pictureOf(image, className) {
  const box = element("div", { class: className });
  box.fill = async () => {
    box.fill = null;
    if (!image.thumbnail) {
      box.append(element("span", { class: "gone" }, "file is gone"));
      return;
    }
    const thumbnail = element("img", { src: `data:image/webp;base64,${image.thumbnail}`, alt: "" });
    const canvas = element("canvas", { class: "heat" });
    const layers = element("div", { class: "layers" }, thumbnail, canvas);
    await thumbnail.decode();
    const ratio = thumbnail.naturalWidth / thumbnail.naturalHeight;
    layers.style.aspectRatio = ratio;
    layers.style.width = `${100 * Math.min(1, ratio)}%`;
    box.append(layers);
    box.classList.add("drawn");
    const values = await heatValues(image);
    box.paint = () => drawHeat(canvas, values, heatScale(image.one));
    box.paint();
    layers.append(await outlines(image, values));
  };
  return box;
}
