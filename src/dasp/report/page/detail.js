"use strict";
// One row, or two, looked at closely.

const dialog = document.getElementById("detail");
let open = null; // the line that is looked at; null while two are compared
let steps = 10; // players in a waterfall

const roomIn = (element) => Math.max(280, Math.min(860, element.clientWidth || 600));

function showLine(line) {
  open = line;
  showBar(true);
  document.getElementById("detail-head").textContent = capital(lineName(line));
  document.getElementById("mark").textContent = marked.has(line) ? "Unmark" : "Mark to compare";
  const body = document.getElementById("detail-body");
  if (!dialog.open) dialog.showModal();
  const order = ordered((player) => Math.abs(value(line, player)));
  const beside = content.grid && body.clientWidth > 700;
  const drawings = make("div", { class: beside ? "beside" : "" });
  if (content.grid) {
    const pixels = pixelsOf((player) => value(line, player));
    const words = `Contributions of ${lineName(line)} as an image; the next drawing and the table say its numbers.`;
    drawings.append(heat(pixels, imageOf(line), largest(pixels), words));
  }
  drawings.append(waterfall(line, order.slice(0, steps), beside ? body.clientWidth - 344 : roomIn(body)));
  body.replaceChildren(facts(line), drawings, stepChooser(() => showLine(line)), numbersOf(line, order));
}

function stepChooser(again) {
  const choose = make("select", {}, ...[10, 20, 40].filter((count) => count === 10 || count / 2 < players).map((count) => make("option", { value: count, selected: count === steps }, String(count))));
  choose.addEventListener("change", () => {
    steps = Number(choose.value);
    again();
    document.querySelector("#detail-body select")?.focus();
  });
  return players > 10 ? make("label", { class: "note" }, "Largest features shown: ", choose) : make("span");
}

/** The columns of a line, as words. */
function facts(line) {
  const list = make("dl", { class: "facts" });
  for (const name of columns.keys()) {
    if (name === "sample") continue;
    const found = cell(name, line);
    const text = typeof found === "string" ? found : shownNumber(name)(found);
    if (text !== "") list.append(make("div", {}, make("dt", {}, LABELS[name] || name), make("dd", {}, make("bdi", {}, text))));
  }
  return list;
}

function numbersOf(line, order) {
  const errors = numbers("errors");
  const head = ["feature", ...(data ? ["held"] : []), "contribution", ...(errors ? ["standard error"] : [])];
  return tableOf(listed(players, "contribution"), head, () => order.slice(0, LISTED).map((player) => [
    content.tokens ? playerName(line, player) : content.names[player], ...(data ? [short(held(line, player), 5)] : []), signed(value(line, player)),
    ...(errors ? [short(errors[line * players + player])] : []),
  ]));
}

function showBar(single) {
  for (const name of ["previous", "next", "mark"]) document.getElementById(name).hidden = !single;
}

function showPair() {
  if (marked.size < 2) return;
  const [first, second] = [...marked];
  open = null;
  showBar(false);
  document.getElementById("detail-head").textContent = `Compare ${lineName(first)} with ${lineName(second)}`;
  const body = document.getElementById("detail-body");
  if (!dialog.open) dialog.showModal();
  const together = ordered((player) => Math.max(Math.abs(value(first, player)), Math.abs(value(second, player)))).slice(0, steps);
  const room = roomIn(body), width = room > 640 ? (body.clientWidth - 24) / 2 : room;
  const frame = frameOf([first, second], together, width);
  const images = content.grid ? [first, second].map((line) => pixelsOf((player) => value(line, player))) : [];
  const limit = Math.max(...images.map(largest), 0);
  const side = (line, place) => make("section", { class: "side" }, make("h3", {}, capital(lineName(line))), facts(line),
    ...(content.grid ? [heat(images[place], imageOf(line), limit, `Contributions of ${lineName(line)} as an image`)] : []),
    waterfall(line, together, width, frame));
  const apart = (player) => value(second, player) - value(first, player);
  const order = ordered((player) => Math.abs(apart(player)));
  const few = order.slice(0, steps);
  const words = `Contributions of ${lineName(second)} less those of ${lineName(first)}. Largest: ${few.slice(0, 3).map((player) => `${content.names[player]} ${signed(apart(player))}`).join("; ")}.`;
  const call = [first, second].map(lineName);
  const head = ["feature", ...(data ? call.map((name) => `held, ${name}`) : []), ...call, "difference"];
  body.replaceChildren(
    make("div", { class: "sides" }, side(first, 0), side(second, 1)),
    make("h3", {}, `Differences: ${lineName(second)} less ${lineName(first)}`),
    make("div", { class: "plot" }, signedBars(few.map((player) => content.names[player]), few.map(apart), room, words)),
    stepChooser(showPair),
    tableOf(listed(players, "difference"), head, () => order.slice(0, LISTED).map((player) => [
      content.names[player], ...(data ? [first, second].map((line) => short(held(line, player), 5)) : []),
      signed(value(first, player)), signed(value(second, player)), signed(apart(player)),
    ])),
  );
}

function step(by) {
  const at = shownLines.indexOf(open) + by;
  if (open !== null && at >= 0 && at < shownLines.length) showLine(shownLines[at]);
}

function watchDialog() {
  const on = (name, act) => document.getElementById(name).addEventListener("click", act);
  on("close", () => dialog.close());
  on("previous", () => step(-1));
  on("next", () => step(1));
  on("mark", () => { mark(open); showLine(open); });
  on("compare", showPair);
  dialog.addEventListener("close", () => (open === null ? document.getElementById("compare").focus() : focusLine(open)));
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", (event) => {
    if (event.target.matches("input, select, canvas") || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowLeft") step(-1);
    else if (event.key === "ArrowRight") step(1);
  });
}
