"use strict";
// Elements, numbers as text, and the size of a place.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes, and what is inside as elements or text. */
function make(tag, attributes = {}, ...inside) {
  return filled(document.createElement(tag), attributes, inside);
}

function draw(tag, attributes = {}, ...inside) {
  return filled(document.createElementNS(SVG, tag), attributes, inside);
}

function filled(element, attributes, inside) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") element.addEventListener("click", value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...inside);
  return element;
}

/** A number in a few digits. */
function short(number, digits = 3) {
  if (Number.isNaN(number)) return "";
  if (!Number.isFinite(number)) return number > 0 ? "∞" : "-∞";
  if (Number.isInteger(number) && Math.abs(number) < 1e6) return String(number);
  const text = number.toPrecision(digits);
  return text.includes("e") ? text : String(Number(text));
}

const signed = (number) => (number > 0 ? "+" : "") + short(number);
function percent(share) {
  if (!Number.isFinite(share)) return "∞";
  return (share !== 0 && Math.abs(share) < 1e-5 ? "<0.001" : short(100 * share, 2)) + "\u00a0%";
}


const counted = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
const sign = (number) => (number >= 0 ? "positive" : "negative");
const capital = (text) => text[0].toUpperCase() + text.slice(1);
const ruler = document.createElement("canvas").getContext("2d");

/** How wide a text is in a drawing. */
function widthOf(text) {
  ruler.font = "13px " + getComputedStyle(document.body).fontFamily;
  return ruler.measureText(text).width;
}

/** A text that is no wider than there is room; long names are not measured letter by letter. */
function cut(text, room) {
  let shown = text.slice(0, 200);
  if (shown === text && widthOf(text) <= room) return text;
  while (shown.length > 1 && widthOf(shown + "…") > room) shown = shown.slice(0, -Math.max(1, Math.floor((1 - room / widthOf(shown + "…")) * shown.length)));
  return shown + "…";
}

/** Text in a drawing; where it is cut, pointing at it shows the whole. */
function label(text, x, y, room, attributes = {}) {
  const shown = cut(text, room);
  return draw("text", { x, y, "dominant-baseline": "central", ...attributes }, shown, ...(shown === text ? [] : [draw("title", {}, text)]));
}

/** Some round places between two ends. */
function ticks(low, high) {
  const rough = (high - low) / 7 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i++) found.push(i * step);
  return found;
}

const LISTED = 1000; // lines of a table of numbers

/** What a table of some things is called, which has an end. */
const listed = (count, noun) => (count > LISTED ? `The ${LISTED.toLocaleString("en")} largest of ${counted(count, noun)} as a table` : `All ${counted(count, noun)} as a table`);

/** A table of texts; numbers to the right. The body is made when it is first looked at. */
function tableOf(summary, head, lines) {
  const details = make("details", { class: "numbers" }, make("summary", {}, summary));
  details.addEventListener("toggle", () => {
    if (!details.open || details.querySelector("table")) return;
    const rows = lines().map((line) =>
      make("tr", {}, ...line.map((text, place) => make(place ? "td" : "th", place ? {} : { scope: "row" }, text))));
    const heads = make("tr", {}, ...head.map((text) => make("th", { scope: "col" }, text)));
    const table = make("table", {}, make("thead", {}, heads), make("tbody", {}, ...rows));
    details.append(make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": summary }, table));
  });
  return details;
}
