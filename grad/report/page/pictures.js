// Pictures of test images: thumbnail, heat map and outlines, one above the other.

const COLOURS = bytes(DATA.colours);

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
async function outlines(image, map) {
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
  const level = markedFrom(image.raw, image.maximum, image.one.threshold);
  add("marked-line", contourPath(withoutSmall(map, level, image.least), level));
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

/** Thumbnail, heat map and outlines, one above the other; `fill` draws them, once. */
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
    drawHeat(canvas, values, image.one.threshold, COLOURS);
    layers.append(await outlines(image, values));
  };
  return box;
}
