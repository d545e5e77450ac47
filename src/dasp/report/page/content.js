"use strict";
// What the page holds: settings as JSON, numbers as base64. Text from here is written with textContent alone.

const content = JSON.parse(document.getElementById("content").textContent);
const KINDS = { f4: Float32Array, f8: Float64Array, u4: Uint32Array, i4: Int32Array, u1: Uint8Array };
const decoded = new Map();

/** The numbers of one array, or null where the page has none of this name. */
function numbers(name) {
  if (!(name in content.arrays)) return null;
  if (!decoded.has(name)) {
    const element = document.getElementById("array-" + name);
    const bytes = bytesOf(element.textContent);
    element.remove(); // the text is not needed twice
    decoded.set(name, new KINDS[content.arrays[name]](bytes.buffer));
  }
  return decoded.get(name);
}

function bytesOf(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

const players = content.names.length;
const columns = new Map(content.columns.map((one) => [one.name, one]));
const LABELS = {
  sample: "row", file: "file", target: "target", base_value: "base value", output: "output", gap: "gap",
  audit_error: "audited error", audit_low: "error, low", audit_high: "error, high", audit_evaluations: "audit evaluations",
  ended: "ended by", measured_error: "measured error", measured_bound: "error bound", row_evaluations: "evaluations",
};
const SHARES = new Set(["gap", "audit_error", "audit_low", "audit_high", "measured_error", "measured_bound"]);

for (const one of content.columns) one.numbers = numbers("column-" + one.name);

/** What a column holds in a line: text, or a number. */
function cell(name, line) {
  const one = columns.get(name);
  const found = one.numbers[line];
  return one.levels ? one.levels[found] : found;
}

const values = numbers("values"), data = numbers("data"); // (rows, players), what the players contribute and what they held
const value = (line, player) => values[line * players + player];
const held = (line, player) => (data ? data[line * players + player] : NaN);
const several = columns.get("target").levels.length > 1;

/** What a line is called: its row, and its target where there are several. */
function lineName(line) {
  const target = cell("target", line);
  return `row ${cell("sample", line)}` + (several ? `, target ${target}` : "");
}

/** A player as it is in one line: its name, and what it held or was. */
function playerName(line, player) {
  if (content.tokens) return `${content.tokens[line][player]} (${player + 1})`;
  return data ? `${content.names[player]} = ${short(held(line, player), 4)}` : content.names[player];
}

/** Players by the size of a function of theirs, largest first. */
function ordered(size) {
  const sizes = Float64Array.from({ length: players }, (_, player) => size(player));
  return Array.from(sizes.keys()).sort((a, b) => sizes[b] - sizes[a] || a - b);
}
