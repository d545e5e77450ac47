"use strict";
// The page from top to bottom.

function fillHead() {
  document.getElementById("title").textContent = content.title;
  const list = document.getElementById("about");
  for (const [name, text] of content.about) list.append(make("dt", {}, name), make("dd", {}, make("bdi", {}, text)));
  const notes = document.getElementById("notes");
  notes.hidden = content.notes.length === 0;
  for (const text of content.notes) notes.append(make("p", {}, text));
  document.getElementById("licence-text").textContent = content.licence;
}

const TOPICS = { error: "Audited error", refined: "Error that the method measured", gap: "Completeness gap" };

function fillSummaries() {
  const place = document.getElementById("summaries");
  for (const [topic, found] of Object.entries(content.summaries)) {
    place.append(make("h3", {}, TOPICS[topic]), ...found.sentences.map((text) => make("p", {}, text)));
    if (!found.histogram) continue;
    const { counts, end, beyond } = found.histogram;
    const words = `Histogram of ${TOPICS[topic].toLowerCase()}, ${counts.length} steps from 0 to ${percent(end)}`;
    place.append(histogram(found.histogram, words, Math.min(480, place.clientWidth)));
    place.append(tableOf("The histogram as a table", ["from", "to", "rows"], () => [
      ...counts.map((count, bin) => [percent((end * bin) / counts.length), percent((end * (bin + 1)) / counts.length), String(count)]),
      ...(beyond ? [[percent(end), "", String(beyond)]] : []),
    ]));
  }
}

const MOST = 20;

function fillImportance(lines, filtered) {
  const sizes = filtered ? meanSizes(lines) : numbers("importance");
  const order = ordered((player) => sizes[player]);
  const shown = order.slice(0, MOST);
  const place = document.getElementById("importance");
  const of = filtered ? `the ${counted(lines.length, "row")} that the filters leave` : `all ${counted(content.total, "row")}`;
  const left = players > MOST ? ` The ${MOST} largest of ${players.toLocaleString("en")}.` : "";
  const targets = several ? " Rows of all targets together: filter by target to tell them apart." : "";
  document.getElementById("importance-note").textContent = `Mean magnitude of each feature's contribution over ${of}.${left}${filtered ? "" : targets}`;
  if (!lines.length) {
    place.replaceChildren();
    return;
  }
  place.replaceChildren(importance(shown, sizes, lines, Math.max(280, place.clientWidth)),
    tableOf(listed(players, "feature"), ["feature", "mean |contribution|"], () => order.slice(0, LISTED).map((player) => [content.names[player], short(sizes[player])])));
}

function meanSizes(lines) {
  const sums = new Float64Array(players);
  for (const line of lines) for (let player = 0; player < players; player++) sums[player] += Math.abs(values[line * players + player]);
  return sums.map((sum) => sum / (lines.length || 1));
}

let waiting = 0;
let current = null;

/** What follows the filters: the count, and a moment later the importance, which stands before the table does. */
function changed(lines) {
  const first = current === null;
  shownLines = lines;
  current = lines;
  const filtered = lines.length < content.rows;
  document.getElementById("count").textContent = filtered
    ? `${lines.length.toLocaleString("en")} of ${counted(content.rows, "row")}` : counted(content.rows, "row");
  if (!first) later(() => fillImportance(lines, filtered));
}

/** After the table has been painted; only the last of several that come fast. */
function later(act) {
  clearTimeout(waiting);
  waiting = setTimeout(() => requestAnimationFrame(() => setTimeout(act)), 30);
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  document.getElementById("theme").textContent = name === "dark" ? "Light page" : "Dark page";
  for (const canvas of document.querySelectorAll("canvas.heat")) canvas.dispatchEvent(new Event("theme"));
}

function watchTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  setTheme(dark.matches ? "dark" : "light");
  dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));
  document.getElementById("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
}

function clearFilters() {
  for (const input of document.querySelectorAll("input.filter")) {
    input.value = "";
    input.removeAttribute("aria-invalid");
    input.title = "";
  }
  table.clearHeaderFilter();
}

watchTheme();
fillHead();
fillSummaries();
fillImportance(Array.from({ length: content.rows }, (_, line) => line), false); // what stands above must not push rows away from a click
buildTable(changed, showLine);
buildChooser();
watchDialog();
document.getElementById("clear").addEventListener("click", clearFilters);
addEventListener("resize", () => {
  later(() => current && fillImportance(current, current.length < content.rows));
});
