"use strict";
// Values as colours over the image they explain: red raises the output, blue lowers it.

/** What each pixel shows, (height, width): the sum of the values of its owners. */
function pixelsOf(valueOf) {
  const { layers, height, width } = content.grid, owners = numbers("owners");
  const found = new Float32Array(height * width);
  for (let layer = 0; layer < layers; layer++) {
    for (let pixel = 0; pixel < height * width; pixel++) {
      const owner = owners[layer * height * width + pixel];
      if (owner >= 0) found[pixel] += valueOf(owner);
    }
  }
  return found;
}

/** The image of a line, from 0 (darkest) to 1, or null where the page has none. */
function imageOf(line) {
  const { layers, height, width } = content.grid, size = height * width;
  if (numbers("pictures")) return Float32Array.from(numbers("pictures").subarray(line * size, (line + 1) * size), (grey) => grey / 255);
  if (!data) return null;
  const mean = pixelsOf((player) => held(line, player) / layers);
  const low = mean.reduce((a, b) => Math.min(a, b)), high = mean.reduce((a, b) => Math.max(a, b));
  return mean.map((one) => (high > low ? (one - low) / (high - low) : 0));
}

function colourOf(name) {
  const text = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
}

const largest = (pixels) => pixels.reduce((most, one) => Math.max(most, Math.abs(one)), 0) || 1;

/** A canvas with pixels in colour; opacity grows with the square root of the magnitude, as in the package's own plot. */
function heat(pixels, image, limit, words) {
  const { height, width } = content.grid;
  const side = Math.max(height, width), scale = side > 160 ? 320 / side : Math.floor(320 / side);
  const canvas = make("canvas", { width, height, class: "heat", role: "img", "aria-label": words });
  canvas.style.width = `${scale * width}px`;
  const context = canvas.getContext("2d");
  const paint = () => {
    const dark = document.documentElement.dataset.theme === "dark";
    const page = dark ? 28 : 255, ink = dark ? 150 : 178;
    const [positive, negative] = [colourOf("--positive"), colourOf("--negative")];
    const made = context.createImageData(width, height);
    for (let at = 0; at < width * height; at++) {
      const beneath = image ? page + (ink - page) * image[at] : page;
      const share = Math.sqrt(Math.min(1, Math.abs(pixels[at]) / limit));
      const colour = pixels[at] >= 0 ? positive : negative;
      for (let part = 0; part < 3; part++) made.data[4 * at + part] = beneath + (colour[part] - beneath) * share;
      made.data[4 * at + 3] = 255;
    }
    context.putImageData(made, 0, 0);
  };
  paint();
  canvas.addEventListener("theme", paint);
  const tip = make("p", { class: "note tip" }, "Point at a pixel to read its value.");
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const x = Math.min(width - 1, Math.floor(((event.clientX - box.left) / box.width) * width));
    const y = Math.min(height - 1, Math.floor(((event.clientY - box.top) / box.height) * height));
    if (x >= 0 && y >= 0) tip.textContent = `row ${y}, column ${x}: ${signed(pixels[y * width + x])}`;
  });
  return make("div", { class: "picture" }, canvas, scaleBar(limit), tip);
}

function scaleBar(limit) {
  const width = 200;
  const svg = draw("svg", { viewBox: `0 0 ${width} 26`, width, height: 26, "aria-hidden": "true" });
  for (let at = -20; at < 20; at++) {
    const share = Math.sqrt(Math.abs(at + 0.5) / 20);
    svg.append(draw("rect", { x: ((at + 20) * width) / 40, y: 0, width: width / 40 + 0.4, height: 10, class: sign(at), "fill-opacity": share }));
  }
  [[0, "start", -limit], [width / 2, "middle", 0], [width, "end", limit]].forEach(([x, anchor, number]) =>
    svg.append(draw("text", { x, y: 21, "text-anchor": anchor, class: "small" }, short(number))));
  return svg;
}
