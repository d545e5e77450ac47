"use strict";
// The table of rows. Cells and titles are elements with text in them, never text that is read as HTML.

const FIRST = 8; // features that the table shows at first
const marked = new Set();
let table = null;
let shownLines = []; // the lines that the filters leave, in the order of the table

/** A line of the table reads its cells from the arrays, so that columns that are not shown cost nothing. */
class Line {
  constructor(id) {
    this.id = id;
  }
}

/** What a field of a line reads: a column of the page, or what a player contributes (v3) or held (x3). */
function defineField(name) {
  if (name in Line.prototype) return;
  const player = Number(name.slice(1));
  const read = columns.has(name) ? (line) => cell(name, line) : name[0] === "v" ? (line) => value(line, player) : (line) => held(line, player);
  // Tabulator writes back what it read when it draws a cell.
  Object.defineProperty(Line.prototype, name, { get() { return read(this.id); }, set() {} });
}

const isShare = (name) => columns.has(name) && SHARES.has(name);
const shownNumber = (name) => (isShare(name) ? percent : (number) => short(number, name === "sample" ? 17 : 4));

/** The test that a filter's text asks for, or null where it is not understood. Numbers are read as the column shows them. */
function testOf(text, isText, share, show) {
  const asked = text.trim().toLowerCase();
  if (isText && asked[0] === "=") return (found) => found.toLowerCase() === asked.slice(1).trim();
  if (isText) return (found) => found.toLowerCase().includes(asked);
  const compared = /^(<=|>=|<|>|=)\s*(-?[\d.]+(?:e[+-]?\d+)?)\s*(%?)$/.exec(asked);
  const between = /^(-?[\d.]+(?:e[+-]?\d+)?)\s*(%?)\s*\.\.\s*(-?[\d.]+(?:e[+-]?\d+)?)\s*(%?)$/.exec(asked);
  const number = (digits, sign) => (sign && !share ? NaN : Number(digits) / (share ? 100 : 1));
  if (compared) {
    const limit = number(compared[2], compared[3]);
    if (Number.isNaN(limit)) return null;
    return { "<": (x) => x < limit, ">": (x) => x > limit, "<=": (x) => x <= limit, ">=": (x) => x >= limit, "=": (x) => Math.abs(x - limit) <= 1e-6 * Math.abs(limit) }[compared[1]];
  }
  if (between) {
    const [low, high] = [number(between[1], between[2]), number(between[3], between[4])];
    return Number.isNaN(low + high) ? null : (x) => x >= low && x <= high;
  }
  const digits = /^(-?[\d.]+(?:e[+-]?\d*)?)\s*(%?)$/.exec(asked);
  if (!digits || (digits[2] && !share)) return null;
  return (found) => show(found).startsWith(digits[1]) && (!digits[2] || show(found) === `${digits[1]}\u00a0%`);
}

const tests = new Map(); // by field and text, so that a text is read once

function filterTest(name, text) {
  const key = name + " " + text;
  if (!tests.has(key)) tests.set(key, testOf(text, Boolean(columns.get(name)?.levels), isShare(name), shownNumber(name)));
  return tests.get(key);
}

/** The input of a column's filter. */
function filterInput(name, title, done) {
  const input = make("input", { type: "text", class: "filter", "aria-label": `Filter ${title}`, placeholder: isShare(name) ? "filter, in %" : "filter", autocomplete: "off", spellcheck: "false" });
  let timer = 0;
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      const text = input.value.trim();
      const bad = text !== "" && filterTest(name, text) === null;
      input.setAttribute("aria-invalid", String(bad));
      input.title = bad ? "Not understood, and left out: write > 1, <= 0.5, 1..2, = 3, or the first digits" : "";
      done(bad ? "" : text);
    }, 60);
  });
  for (const kind of ["click", "mousedown", "keydown"]) input.addEventListener(kind, (event) => event.stopPropagation());
  return input;
}

const texts = new Intl.Collator("en", { numeric: true }); // 2 before 10

function column(name, title, more = {}) {
  const isText = Boolean(columns.get(name)?.levels);
  const show = shownNumber(name);
  defineField(name);
  return {
    field: name,
    title: name, // never shown: what is, is made below
    titleFormatter: () => make("button", { type: "button", class: "head", title, tabindex: "0" }, title),
    sorter: isText ? (a, b) => texts.compare(a, b) : (a, b) => a - b,
    headerSortStartingDir: isText || name === "sample" ? "asc" : "desc",
    headerFilter: (found, rendered, success) => filterInput(name, title, success),
    headerFilterLiveFilter: false,
    headerFilterFunc: (text, found) => filterTest(name, text)(found),
    formatter: (found) => document.createTextNode(isText ? found.getValue() : show(found.getValue())),
    hozAlign: isText ? "left" : "right",
    width: Math.min(240, Math.max(86, 1.15 * widthOf(title.slice(0, 60)) + 44, isText ? textWidth(name) : 0)), // not measured by drawing
    ...more,
  };
}

/** Room for the texts of a column, by some of them. */
function textWidth(name) {
  const levels = columns.get(name).levels;
  const step = Math.ceil(levels.length / 100);
  return Math.max(...levels.filter((_, i) => i % step === 0).map((text) => widthOf(text.slice(0, 60)))) * 1.05 + 20;
}

let tintScale = 1;

function valueColumn(player) {
  return column("v" + player, content.names[player], {
    formatter: (found) => {
      const number = found.getValue();
      const element = found.getElement();
      const share = Math.min(1, Math.abs(number) / tintScale);
      element.classList.add("tint");
      element.style.setProperty("--share", `${(45 * share).toFixed(0)}%`);
      element.style.setProperty("--colour", `var(--${sign(number)})`);
      return document.createTextNode(short(number));
    },
  });
}

const heldColumn = (player) => column("x" + player, `${content.names[player]}, held`);

function markColumn() {
  return {
    title: "mark", field: "id", headerSort: false, width: 44, hozAlign: "center", resizable: false,
    titleFormatter: () => make("span", { class: "hidden" }, "Mark to compare"),
    formatter: (found) => {
      const line = found.getData().id;
      const box = make("input", { type: "checkbox", "aria-label": `Mark ${lineName(line)} to compare`, tabindex: "-1" });
      box.checked = marked.has(line);
      box.addEventListener("click", (event) => event.stopPropagation());
      box.addEventListener("change", () => mark(line));
      return box;
    },
  };
}

/** Mark a line, or not; a third one takes the place of the first. */
function mark(line) {
  if (!marked.delete(line)) {
    if (marked.size === 2) marked.delete(marked.values().next().value);
    marked.add(line);
  }
  for (const element of document.querySelectorAll("#table .tabulator-row")) showMark(element);
  const button = document.getElementById("compare");
  button.disabled = marked.size < 2;
  button.textContent = marked.size === 0 ? "Compare two rows" : `Compare (${marked.size} of 2 marked)`;
}

function showMark(element) {
  const isMarked = marked.has(Number(element.dataset.line));
  element.classList.toggle("marked", isMarked);
  element.setAttribute("aria-selected", String(isMarked));
  const box = element.querySelector("input[type=checkbox]");
  if (box) box.checked = isMarked;
}

const chosen = []; // fields of the features that are shown

function columnsShown() {
  const own = [...columns.keys()].filter((name) => name !== "sample" && (name !== "target" || several));
  const few = own.filter((name) => !["audit_low", "audit_high", "audit_evaluations", "base_value"].includes(name));
  const features = chosen.map((name) => (name[0] === "v" ? valueColumn(Number(name.slice(1))) : heldColumn(Number(name.slice(1)))));
  return [markColumn(), column("sample", LABELS.sample, { frozen: window.innerWidth > 700 }), ...few.map((name) => column(name, LABELS[name] || name)), ...features];
}

function buildTable(changed, opened) {
  const most = numbers("importance");
  chosen.push(...ordered((player) => most[player]).slice(0, FIRST).map((player) => "v" + player));
  const sizes = chosen.flatMap((name) => Array.from({ length: Math.min(200, content.rows) }, (_, i) => Math.abs(value(Math.floor((i * content.rows) / Math.min(200, content.rows)), Number(name.slice(1))))));
  sizes.sort((a, b) => a - b);
  tintScale = sizes[Math.floor(0.98 * (sizes.length - 1))] || 1;
  table = new Tabulator("#table", {
    data: Array.from({ length: content.rows }, (_, line) => new Line(line)),
    columns: columnsShown(),
    index: "id",
    nestedFieldSeparator: false,
    layout: "fitDataFill",
    height: Math.min(620, 96 + 36 * Math.max(3, content.rows)),
    rowHeight: 34,
    renderVerticalBuffer: 136, // pixels above and below; the default is a whole height each
    placeholder: () => make("p", {}, "No row passes the filters."),
    columnDefaults: { headerTooltip: false, tooltip: false },
    rowFormatter: (row) => {
      const element = row.getElement();
      element.dataset.line = row.getData().id;
      element.tabIndex = -1;
      showMark(element);
    },
  });
  table.on("tableBuilt", () => afterRender());
  table.on("dataFiltered", (filters, rows) => changed(rows.map((row) => row.getData().id)));
  table.on("dataSorted", (sorters, rows) => { shownLines = rows.map((row) => row.getData().id); });
  table.on("renderComplete", () => {
    afterRender();
    keepFocus();
  });
  table.on("scrollVertical", afterRender);
  table.on("rowClick", (event, row) => opened(row.getData().id));
  const place = document.getElementById("table");
  place.addEventListener("keydown", (event) => onKey(event, opened));
  place.addEventListener("focusin", (event) => {
    const row = event.target.closest(".tabulator-row");
    focusedLine = row && row === event.target ? Number(row.dataset.line) : null;
    if (focusedLine !== null) setCurrent(row);
  });
  document.addEventListener("pointerdown", () => { focusedLine = null; });
}

let focusedLine = null;

/** When all rows are drawn again, as after a change of width, the focus goes back to the row that had it. */
function keepFocus() {
  if (focusedLine === null || document.activeElement !== document.body) return;
  const row = document.querySelector(`#table .tabulator-row[data-line="${focusedLine}"]`);
  if (row) row.focus({ preventScroll: true });
}

/** One row takes part in tabbing: the one last looked at, or the first that is drawn. */
function setCurrent(row) {
  for (const other of document.querySelectorAll("#table .tabulator-row[tabindex='0']")) other.tabIndex = -1;
  row.tabIndex = 0;
}

function afterRender() {
  const place = document.getElementById("table");
  const rows = [...place.querySelectorAll(".tabulator-table .tabulator-row")];
  if (rows.length && !rows.some((row) => row.tabIndex === 0)) rows[0].tabIndex = 0;
  place.setAttribute("aria-label", "Rows and their contributions");
  place.setAttribute("aria-rowcount", String(shownLines.length + 1));
  place.querySelector(".tabulator-tableholder")?.removeAttribute("tabindex"); // its rows take the focus
  for (const row of rows) row.setAttribute("aria-rowindex", String(table.getRow(Number(row.dataset.line)).getPosition() + 1));
}

const MOVES = { ArrowDown: 1, ArrowUp: -1, PageDown: 12, PageUp: -12, Home: -Infinity, End: Infinity };

function onKey(event, opened) {
  const row = event.target.classList.contains("tabulator-row") ? event.target : null;
  if (!row) return;
  const line = Number(row.dataset.line);
  if (event.key === "Enter") opened(line);
  else if (event.key === " ") mark(line);
  else if (event.key in MOVES) {
    const at = table.getRow(line).getPosition();
    focusAt(Math.max(1, Math.min(shownLines.length, at + MOVES[event.key])));
  } else return;
  event.preventDefault();
}

/** Scrolls no more than is needed: Tabulator's own way draws all rows again, and the focus is lost with them. */
async function focusAt(position) {
  const row = table.getRowFromPosition(position);
  if (!row) return;
  const holder = document.querySelector("#table .tabulator-tableholder");
  const height = holder.querySelector(".tabulator-row").offsetHeight, room = holder.clientHeight;
  const top = (position - 1) * height;
  if (top < holder.scrollTop) holder.scrollTop = top;
  else if (top + height > holder.scrollTop + room) holder.scrollTop = top + height - room;
  const element = row.getElement();
  for (let frame = 0; frame < 30 && !element.isConnected; frame++) await new Promise(requestAnimationFrame);
  element.focus({ preventScroll: true });
}

/** Back to a row of the table, where the filters leave it. */
function focusLine(line) {
  const row = table.getRow(line);
  const position = row && row.getPosition();
  if (position) focusAt(position);
  else document.getElementById("rows").focus();
}

/** The list of features to show as columns. */
function buildChooser() {
  const place = document.getElementById("chooser");
  const kinds = data ? [["v", "contribution of"], ["x", "what was held by"]] : [["v", "contribution of"]];
  const search = make("input", { type: "search", "aria-label": "Find a feature", placeholder: "find a feature" });
  const list = make("div", { class: "list" }), said = make("p", { class: "note", role: "status" });
  const order = ordered((player) => numbers("importance")[player]);
  const show = () => {
    const asked = search.value.trim().toLowerCase();
    const found = order.filter((player) => content.names[player].toLowerCase().includes(asked));
    list.replaceChildren(...found.slice(0, 100).flatMap((player) => kinds.map(([kind, word]) => {
      const name = kind + player;
      const box = make("input", { type: "checkbox" });
      box.checked = chosen.includes(name);
      box.addEventListener("change", () => {
        if (box.checked) {
          chosen.push(name);
          table.addColumn(kind === "v" ? valueColumn(player) : heldColumn(player));
        } else {
          chosen.splice(chosen.indexOf(name), 1);
          table.deleteColumn(name);
        }
        sayColumns();
      });
      return make("label", {}, box, make("span", { class: "note" }, kinds.length > 1 ? word + " " : ""), make("bdi", {}, content.names[player]));
    })));
    said.textContent = found.length > 100 ? `The first 100 of ${found.length.toLocaleString("en")}, by importance; type to find others.` : "";
  };
  search.addEventListener("input", show);
  place.append(search, said, list);
  show();
  const button = document.getElementById("choose");
  button.addEventListener("click", () => {
    place.hidden = !place.hidden;
    button.setAttribute("aria-expanded", String(!place.hidden));
    if (!place.hidden) search.focus();
  });
  sayColumns();
}

function sayColumns() {
  const shown = chosen.filter((name) => name[0] === "v").length;
  document.getElementById("choose").textContent = `Columns (${shown} of ${players.toLocaleString("en")} features)`;
}
