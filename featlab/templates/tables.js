// Tables that sort by a click on a header: best first, the other way, as printed.

const DIGITS = "⁰¹²³⁴⁵⁶⁷⁸⁹";
const collator = new Intl.Collator("en", { numeric: true });

/** The number that a cell begins with, null for a dash or none: "0.93 [0.88, 0.97]", "−3 %". */
function cellNumber(text) {
  const plain = text.replace(/−/g, "-").replace(/\s+/g, " ").trim();
  const power = plain.match(/^<? ?(?:([\d.]+) × )?10(⁻?)([⁰¹²³⁴⁵⁶⁷⁸⁹]+)/);
  if (power) {
    const exponent = [...power[3]].reduce((sum, digit) => 10 * sum + DIGITS.indexOf(digit), 0);
    return Number(`${power[1] ?? 1}e${power[2] ? "-" : ""}${exponent}`);
  }
  const number = plain.match(/^(?:neuron )?[<≤≥]? ?([-+]?\d[\d,]*(?:\.\d+)?)/);
  return number ? Number(number[1].replace(/,/g, "")) : null;
}

const isEmpty = (text) => ["", "–"].includes(text.trim());

/** Numbers by size, text by the alphabet; the keys of a column are all of one kind. */
const compare = (a, b) => (typeof a === "string" ? collator.compare(a, b) : a - b);

/** Rows ordered by `key(row)`; what is missing comes last whichever way, ties stay as they were. */
function ordered(rows, key, way) {
  const keys = new Map(rows.map((row) => [row, key(row)]));
  const sign = way === "descending" ? -1 : 1;
  const known = rows.filter((row) => keys.get(row) !== null);
  known.sort((a, b) => sign * compare(keys.get(a), keys.get(b)));
  return [...known, ...rows.filter((row) => keys.get(row) === null)];
}

/** Numbers of which the smallest is the best, by the words above them; of all others the largest. */
const SMALLEST_FIRST = /\bp\b|\bloss\b|^threshold$|^rank$|^seconds|^parameters$|^store$|^dead$/i;
/** Numbers that are names. */
const NAMES = /^(neuron|cluster|class|kind|image)$/i;

/** Which way a first click sorts a column: the only place that says what is best. */
function bestFirst(words, numeric) {
  const upwards = !numeric || SMALLEST_FIRST.test(words) || NAMES.test(words);
  return upwards ? "ascending" : "descending";
}

const opposite = (way) => (way === "ascending" ? "descending" : "ascending");

/** Makes a button of a header; `sort(way)` is called with "ascending", "descending" or null. */
function sortable(header, numeric, sort) {
  const first = bestFirst(header.textContent.trim(), numeric);
  const button = make("button", { type: "button", class: "sort" });
  button.append(...header.childNodes);
  header.append(button);
  button.addEventListener("click", () => {
    const before = header.getAttribute("aria-sort");
    const after = before === first ? opposite(first) : null;
    const way = before === null ? first : after;
    for (const one of header.parentElement.children) one.removeAttribute("aria-sort");
    if (way) header.setAttribute("aria-sort", way);
    sort(way);
  });
}

function startTables() {
  for (const table of document.querySelectorAll("main table:not([data-own])")) {
    const body = table.tBodies[0];
    const printed = [...body.rows];
    if (printed.length < 2) continue;
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      const text = (row) => row.cells[column].textContent;
      const full = printed.map(text).filter((cell) => !isEmpty(cell));
      const numeric = full.length > 0 && full.every((cell) => cellNumber(cell) !== null);
      const key = (row) => {
        if (isEmpty(text(row))) return null;
        return numeric ? cellNumber(text(row)) : text(row);
      };
      sortable(header, numeric, (way) => body.append(...(way ? ordered(printed, key, way) : printed)));
    });
  }
}
