"use strict";
// Drawings made of bars: steps from the base value to the output, differences, importance, histograms.

const LINE = 26; // height of a line of a drawing

/** The steps of a waterfall from the bottom, as the package's own plot has them. */
function stepsOf(line, shown) {
  const base = cell("base_value", line), output = cell("output", line);
  let total = 0, size = 0;
  for (let player = 0; player < players; player++) {
    total += value(line, player);
    size += Math.abs(value(line, player));
  }
  const steps = [];
  const rest = output - base - total;
  if (Math.abs(rest) > 1e-3 * size) steps.push({ name: "not attributed (gap)", length: rest, gap: true });
  if (shown.length < players) {
    const others = total - shown.reduce((sum, player) => sum + value(line, player), 0);
    steps.push({ name: `${(players - shown.length).toLocaleString("en")} others`, length: others });
  }
  for (const player of [...shown].reverse()) steps.push({ name: playerName(line, player), length: value(line, player) });
  let at = base;
  for (const step of steps) {
    step.from = at;
    at = step.to = at + step.length;
  }
  return { steps, base, output, low: Math.min(base, output, ...steps.map((s) => s.to)), high: Math.max(base, output, ...steps.map((s) => s.to)) };
}

/** The ends of a scale that holds all these lines, and the room for their names and numbers. */
function frameOf(lines, shown, width) {
  const all = lines.map((line) => stepsOf(line, shown)), steps = all.flatMap((one) => one.steps);
  return {
    start: Math.min(...all.map((one) => one.low)),
    stop: Math.max(...all.map((one) => one.high)),
    left: namesWidth(steps.map((step) => step.name), width),
    pad: Math.max(...steps.map((step) => widthOf(signed(step.length)))) + 10, // for the number beside a bar
  };
}

/** Steps from the base value, at the bottom, to the output. */
function waterfall(line, shown, width, frame = frameOf([line], shown, width)) {
  const { steps, base, output } = stepsOf(line, shown);
  const { start, stop, left, pad } = frame;
  const scale = (number) => left + 8 + ((number - start) / (stop - start || 1)) * (width - left - 8 - pad);
  const height = steps.length * LINE + 44;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": told(line, shown, base, output) });
  const bottom = steps.length * LINE + 8;
  for (const [number, name] of [[base, "base"], [output, "output"]]) {
    svg.append(draw("line", { x1: scale(number), x2: scale(number), y1: 4, y2: bottom, class: "guide" }));
    const text = `${name} ${short(number, 4)}`, half = widthOf(text) / 2;
    const near = Math.abs(scale(base) - scale(output)) < 110; // then the second stands below the first
    const x = Math.max(half, Math.min(width - half, scale(number)));
    svg.append(draw("text", { x, y: bottom + (near && name === "output" ? 26 : 12), "text-anchor": "middle", class: "small" }, text));
  }
  steps.forEach((step, place) => {
    const y = (steps.length - 1 - place) * LINE + 6;
    const [a, b] = [scale(step.from), scale(step.to)];
    const kind = step.gap ? "neutral" : sign(step.length);
    svg.append(label(step.name, left - 8, y + 9, left - 10, { "text-anchor": "end", class: "name" }));
    svg.append(draw("rect", { x: Math.min(a, b), y, width: Math.max(1, Math.abs(a - b)), height: 18, rx: 2, class: kind }));
    if (place + 1 < steps.length) svg.append(draw("line", { x1: b, x2: b, y1: y, y2: y - 8, class: "join" }));
    svg.append(draw("text", { x: Math.max(a, b) + 5, y: y + 9, "dominant-baseline": "central", class: "small" }, signed(step.length)));
  });
  return svg;
}

function told(line, shown, base, output) {
  const largest = shown.slice(0, 3).map((player) => `${playerName(line, player)} ${signed(value(line, player))}`);
  return `Waterfall of ${lineName(line)}, from base ${short(base, 4)} to output ${short(output, 4)}. Largest: ${largest.join("; ")}.`;
}

function namesWidth(names, width) {
  return Math.min(Math.max(60, ...names.map((name) => widthOf(name.slice(0, 200)) + 14)), width * 0.4);
}

/** Signed bars about 0. */
function signedBars(names, lengths, width, words) {
  const left = namesWidth(names, width);
  const most = Math.max(...lengths.map(Math.abs)) || 1;
  const middle = left + (width - left) / 2, half = (width - left) / 2 - Math.max(...lengths.map((one) => widthOf(signed(one)))) - 10;
  const height = names.length * LINE + 8;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": words });
  svg.append(draw("line", { x1: middle, x2: middle, y1: 0, y2: height, class: "guide" }));
  names.forEach((name, place) => {
    const y = place * LINE + 6, length = (lengths[place] / most) * half;
    svg.append(label(name, left - 8, y + 9, left - 10, { "text-anchor": "end", class: "name" }));
    svg.append(draw("rect", { x: Math.min(middle, middle + length), y, width: Math.max(1, Math.abs(length)), height: 18, rx: 2, class: sign(length) }));
    const beside = { x: middle + length + (length >= 0 ? 5 : -5), "text-anchor": length >= 0 ? "start" : "end" };
    svg.append(draw("text", { ...beside, y: y + 9, "dominant-baseline": "central", class: "small" }, signed(lengths[place])));
  });
  return svg;
}

const BANDS = 60;

/** Mean magnitude as bars, and beside each how the values of these lines lie. */
function importance(shown, sizes, lines, width) {
  const names = shown.map((player) => content.names[player]);
  const left = namesWidth(names, width);
  const wide = width > 560;
  const bars = (width - left) * (wide ? 0.42 : 1), spread = { from: left + bars + 24, to: width - 8 };
  const most = Math.max(...shown.map((player) => sizes[player])) || 1;
  const height = shown.length * LINE + 34;
  const words = `Mean magnitude of the contributions. Largest: ${shown.slice(0, 3).map((p) => `${content.names[p]} ${short(sizes[p])}`).join("; ")}.`;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": words });
  svg.append(draw("text", { x: left, y: 10, class: "small" }, "mean |contribution|"));
  const ends = wide ? endsOf(shown, lines) : null;
  const place = (number) => spread.from + ((number - ends[0]) / (ends[1] - ends[0])) * (spread.to - spread.from);
  if (wide) {
    svg.append(draw("text", { x: spread.from, y: 10, class: "small" }, `how the contributions of ${counted(lines.length, "row")} lie`));
    for (const tick of ticks(...ends)) {
      svg.append(draw("line", { x1: place(tick), x2: place(tick), y1: 18, y2: height - 14, class: Math.abs(tick) < 1e-12 ? "guide" : "faint" }));
      svg.append(draw("text", { x: place(tick), y: height - 3, "text-anchor": "middle", class: "small" }, short(tick)));
    }
  }
  shown.forEach((player, at) => {
    const y = at * LINE + 22, length = (sizes[player] / most) * (bars - 60);
    svg.append(label(content.names[player], left - 8, y + 8, left - 10, { "text-anchor": "end", class: "name" }));
    svg.append(draw("rect", { x: left, y, width: Math.max(1, length), height: 16, rx: 2, class: "plain" }));
    svg.append(draw("text", { x: left + length + 5, y: y + 8, "dominant-baseline": "central", class: "small" }, short(sizes[player])));
    if (wide) svg.append(...bandsOf(player, lines, ends, place, y + 8));
  });
  return svg;
}

/** From the smallest to the largest value, 0 among them. */
function endsOf(shown, lines) {
  let low = 0, high = 0;
  for (const player of shown) {
    for (const line of lines) {
      const one = values[line * players + player];
      if (one < low) low = one;
      if (one > high) high = one;
    }
  }
  return low === high ? [-1, 1] : [low, high];
}

/** Two shapes, red above 0 and blue below, whose thickness says how many rows have that value. */
function bandsOf(player, lines, [low, high], place, y) {
  const counts = new Float64Array(BANDS), step = BANDS / (high - low);
  for (const line of lines) counts[Math.min(BANDS - 1, Math.floor((values[line * players + player] - low) * step))]++;
  const most = Math.max(...counts) || 1, wide = place(low + 1 / step) - place(low);
  const shapes = { positive: "", negative: "" };
  counts.forEach((count, band) => {
    if (!count) return;
    const half = Math.max(0.8, 10 * Math.sqrt(count / most));
    const side = low + (band + 0.5) / step >= 0 ? "positive" : "negative";
    shapes[side] += `M${(place(low) + band * wide).toFixed(1)} ${(y - half).toFixed(1)}h${(wide + 0.2).toFixed(1)}v${(2 * half).toFixed(1)}h-${(wide + 0.2).toFixed(1)}z`;
  });
  return Object.entries(shapes).filter(([, d]) => d).map(([side, d]) => draw("path", { d, class: side }));
}

/** Counts of equal steps from 0 to an end. */
function histogram(found, words, width) {
  const height = 74, most = Math.max(...found.counts) || 1, step = width / found.counts.length;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": words });
  found.counts.forEach((count, bin) => {
    const tall = count ? Math.max(1.5, (count / most) * 50) : 0;
    const from = (found.end * bin) / found.counts.length, to = (found.end * (bin + 1)) / found.counts.length;
    const title = draw("title", {}, `${percent(from)} to ${percent(to)}: ${counted(count, "row")}`);
    svg.append(draw("rect", { x: bin * step, y: 54 - tall, width: step - 1, height: tall, class: "plain" }, title));
  });
  svg.append(draw("line", { x1: 0, x2: width, y1: 54.5, y2: 54.5, class: "join" }));
  const beyond = found.beyond ? `, ${counted(found.beyond, "row")} beyond` : "";
  svg.append(draw("text", { x: 0, y: 68, class: "small" }, "0"));
  svg.append(draw("text", { x: width, y: 68, "text-anchor": "end", class: "small" }, percent(found.end) + beyond));
  return svg;
}
