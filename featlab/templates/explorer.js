// The neuron explorer: pairs of class and neuron as a table that filters, sorts, pages and
// downloads, and as a volcano plot; a pair's name or point opens its details.

const PAGE_ROWS = 10;
const SILENT = 1;
const SELECTED = 2;
const CONFIRMED = 4;

/** Columns of numbers by name: `value(name, i)` is null where there is none. */
function neuronTable(data) {
  const columns = {};
  for (const [name, text] of Object.entries(data.columns)) columns[name] = unpacked(text, Uint16Array);
  const n = columns.neuron.length;
  const raw = (name, i) => {
    const code = columns[name][i];
    return code === undefined || code === MISSING ? null : code;
  };
  const scaled = (name) => (i) => (raw(name, i) === null ? null : raw(name, i) / 10000);
  const probability = (name) => (i) => {
    const code = raw(name, i);
    if (code === null) return null;
    return code === MISSING - 1 ? 0 : 10 ** (-code / data.p_scale);
  };
  const flag = (bit) => (i) => (columns.flags[i] & bit) > 0;
  const value = {
    neuron: (i) => columns.neuron[i],
    class: (i) => data.classes[columns.class[i]],
    auroc: scaled("auroc"),
    auroc_low: scaled("auroc_low"),
    auroc_high: scaled("auroc_high"),
    p_adjusted: probability("p_adjusted"),
    pts: scaled("pts"),
    pts_ref: scaled("pts_ref"),
    auroc_confirmed: scaled("auroc_confirmed"),
    auroc_confirmed_low: scaled("auroc_confirmed_low"),
    auroc_confirmed_high: scaled("auroc_confirmed_high"),
    p_confirmed: probability("p_confirmed"),
    silent: flag(SILENT),
    selected: flag(SELECTED),
    confirmed: flag(CONFIRMED),
    direction: (i) => (value.silent(i) ? "silent" : "active"),
    state: (i) => (value.confirmed(i) ? 2 : Number(value.selected(i))),
  };
  return { n, value, classOf: (i) => columns.class[i], cards: data.cards, portraits: data.portraits };
}

const STATES = ["–", "selected", "confirmed"];

function withInterval(value, name, i) {
  if (value[name](i) === null) return "–";
  const [low, high] = [value[`${name}_low`](i), value[`${name}_high`](i)];
  const interval = low === null || high === null ? "" : ` [${score(low)},\u00a0${score(high)}]`;
  return score(value[name](i)) + interval;
}

function startExplorer(data, pictures) {
  const table = neuronTable(data);
  const portrait = data.portraits && portraits(data, pictures);
  const { value } = table;
  const controls = {
    search: byId("explorer-search"),
    class: byId("explorer-class"),
    direction: byId("explorer-direction"),
    state: byId("explorer-state"),
    effect: byId("explorer-effect"),
  };
  byId("explorer-held").textContent = `This page holds ${data.held}`;
  byId("explorer-pictured").textContent = data.portraits?.held ?? "";
  // Of two classes, a neuron that is active for one is silent for the other: the same fact twice.
  const twice = data.classes.length === 2;
  const unfiltered = { search: "", class: "", direction: twice ? "active" : "", state: "", effect: 0 };
  if (twice) {
    byId("explorer-held").append(
      " With two classes a neuron that is active for one is silent for the other, so the list" +
        " begins with the active side; choose the direction “both” for all.",
    );
  }
  data.classes.forEach((name, k) => {
    controls.class.append(make("option", { value: k }, shortened(name)));
  });
  const all = Array.from({ length: table.n }, (_, i) => i);
  let shown = all;
  let page = 0;
  let pinned = -1;
  let walked = -1;
  let order = null;

  function passes(i) {
    const wanted = controls.search.value.trim();
    const state = controls.state.value;
    return (
      (wanted === "" || wanted.split(/[\s,;]+/).includes(String(value.neuron(i)))) &&
      (controls.class.value === "" || table.classOf(i) === Number(controls.class.value)) &&
      (controls.direction.value === "" || controls.direction.value === value.direction(i)) &&
      (state === "" || value.state(i) === Number(state)) &&
      Math.abs(2 * value.auroc(i) - 1) >= Number(controls.effect.value) - 1e-9
    );
  }

  function update() {
    const least = Number(controls.effect.value);
    byId("explorer-effect-value").textContent =
      least === 0
        ? "any"
        : `AUROC ≥ ${decimal(0.5 + least / 2)} or ≤ ${decimal(0.5 - least / 2)}`;
    shown = all.filter(passes);
    if (order) shown = ordered(shown, value[order.key], order.way);
    page = 0;
    // What a filter hides is let go.
    if (!shown.includes(walked)) walked = -1;
    if (!shown.includes(pinned)) pinned = -1;
    portrait?.(table, pinned);
    list();
    plot.redraw();
    meet(walked);
  }

  /** The filters as the page begins with them. */
  function clear() {
    for (const [name, control] of Object.entries(controls)) control.value = unfiltered[name];
    update();
  }

  function list() {
    const pages = Math.max(1, Math.ceil(shown.length / PAGE_ROWS));
    const rows = shown.slice(page * PAGE_ROWS, (page + 1) * PAGE_ROWS);
    byId("explorer-rows").replaceChildren(...rows.map(row));
    byId("explorer-before").disabled = page === 0;
    byId("explorer-after").disabled = page + 1 >= pages;
    byId("explorer-download").disabled = shown.length === 0;
    const first = page * PAGE_ROWS;
    byId("explorer-place").textContent = shown.length
      ? `${counted(first + 1)} to ${counted(first + rows.length)} of ${counted(shown.length)}`
      : "No pair fits these filters.";
  }

  function row(i) {
    const open = make("button", { type: "button", class: "link" }, `neuron\u00a0${value.neuron(i)}`);
    open.addEventListener("click", () => pin(i));
    const cells = [
      withInterval(value, "auroc", i),
      pText(value.p_adjusted(i)),
      withInterval(value, "auroc_confirmed", i),
      pText(value.p_confirmed(i)),
      value.pts(i) === null || value.pts_ref(i) === null
        ? "–"
        : `${Math.round(100 * value.pts(i))} / ${percent(value.pts_ref(i))}`,
    ];
    const line = make(
      "tr",
      {},
      make("th", { scope: "row" }, open),
      make("td", {}, named(value.class(i))),
      make("td", {}, value.direction(i)),
      make("td", {}, STATES[value.state(i)]),
      ...cells.map((text) => make("td", { class: "num" }, text)),
    );
    line.dataset.pair = i;
    line.classList.toggle("pinned", i === pinned);
    return line;
  }

  function pin(i) {
    pinned = i;
    plot.mark(i);
    describe(byId("explorer-details"), table, i, true);
    portrait?.(table, i);
    for (const line of byId("explorer-rows").rows) {
      line.classList.toggle("pinned", Number(line.dataset.pair) === i);
    }
  }

  /** While the pointer is over a point, that one; else the pinned one. */
  function meet(i) {
    plot.mark(i >= 0 ? i : pinned);
    describe(byId("explorer-details"), table, i >= 0 ? i : pinned, i < 0 || i === pinned);
  }

  function step(event) {
    const here = shown.indexOf(walked >= 0 ? walked : pinned);
    const target = {
      ArrowRight: here + 1,
      ArrowDown: here + 1,
      ArrowLeft: here - 1,
      ArrowUp: here - 1,
      Home: 0,
      End: shown.length - 1,
    }[event.key];
    if (target !== undefined && shown.length) {
      walked = shown[Math.min(Math.max(target, 0), shown.length - 1)];
      meet(walked);
    } else if (event.key === "Enter" && walked >= 0) pin(walked);
    else if (event.key === "Escape") {
      walked = -1;
      pin(-1);
    } else return;
    event.preventDefault();
  }
  const canvas = byId("explorer-plot");
  byId("explorer").hidden = false;
  const plot = volcano(canvas, data, table, () => shown, meet, (i) => i >= 0 && pin(i));
  canvas.addEventListener("keydown", step);
  for (const control of Object.values(controls)) {
    control.addEventListener(control.tagName === "SELECT" ? "change" : "input", update);
  }
  byId("explorer-reset").addEventListener("click", clear);
  byId("explorer-before").addEventListener("click", () => turn(-1));
  byId("explorer-after").addEventListener("click", () => turn(1));
  byId("explorer-download").addEventListener("click", () => download(csv(table, shown)));
  for (const header of byId("explorer-head").cells) {
    const ranked = header.classList.contains("num") || header.dataset.key === "state";
    sortable(header, ranked, (way) => {
      order = way && { key: header.dataset.key, way };
      update();
    });
  }
  function turn(by) {
    page += by;
    list();
  }
  clear();
}

/** A pair's numbers in words, and its card where the page has one. */
function describe(panel, table, i, withCard) {
  if (i < 0) {
    panel.replaceChildren(make("p", { class: "note" }, "Choose a point, or a neuron of the table."));
    return;
  }
  const { value } = table;
  const state = ["is no detector", "was selected, but not confirmed, as a detector", "is a confirmed detector"];
  const kind = value.silent(i) && value.state(i) ? " (silent: it is less active for the class)" : "";
  const text = make("p", {}, `It ${state[value.state(i)]} of this class${kind}. `);
  text.append(
    `On the train images its AUROC is ${withInterval(value, "auroc", i)}, adjusted p ${pText(value.p_adjusted(i))}`,
  );
  if (value.auroc_confirmed(i) !== null) {
    text.append(
      `; on images it was not chosen on ${withInterval(value, "auroc_confirmed", i)}, adjusted p ${pText(value.p_confirmed(i))}`,
      value.confirmed(i) ? " (being confirmed flatters it; its interval allows for that)" : "",
    );
  }
  text.append(". ");
  if (value.pts(i) !== null && value.pts_ref(i) !== null) {
    text.append(
      `It fires in ${percent(value.pts(i))} of the train images of the class and in ${percent(value.pts_ref(i))} of the others.`,
    );
  }
  panel.replaceChildren(
    make("p", { class: "title" }, `Neuron ${value.neuron(i)} and `, named(value.class(i))),
    text,
  );
  const place = table.cards.findIndex(
    ([k, neuron]) => k === table.classOf(i) && neuron === value.neuron(i),
  );
  const card = place >= 0 && byId(`card-${place}`)?.querySelector("img");
  if (card && withCard) {
    const copy = card.cloneNode();
    copy.removeAttribute("style");
    panel.append(make("a", { href: `#card-${place}` }, copy));
  }
}

const CSV_COLUMNS = [
  ...["class", "neuron", "direction", "auroc", "auroc_low", "auroc_high", "p_adjusted"],
  ...["auroc_confirmed", "auroc_confirmed_low", "auroc_confirmed_high", "p_confirmed"],
  ...["pts", "pts_ref", "selected", "confirmed"],
];

/** A field that no spreadsheet runs as a formula. */
function csvField(value) {
  if (value === null) return "";
  if (typeof value !== "string") return String(value);
  const harmless = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(harmless) ? `"${harmless.replace(/"/g, '""')}"` : harmless;
}

function csv(table, rows) {
  const cell = (name, i) => {
    const value = table.value[name](i);
    return csvField(name.startsWith("p_") && value ? Number(value.toPrecision(3)) : value);
  };
  const lines = rows.map((i) => CSV_COLUMNS.map((name) => cell(name, i)).join(","));
  return `${[CSV_COLUMNS.join(","), ...lines].join("\n")}\n`;
}

function download(text) {
  const address = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  const link = make("a", { href: address, download: "neurons_shown.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}
