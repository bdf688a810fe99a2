// The t-SNE plane: what lies beside what, with thumbnails.

// A colour for each of eight classes, as the figures have them on a light page and on a dark one; the
// ninth has the first colour and another shape, and so on.
const PALETTE = [
  ...[["#0173b2", "#56bdf4"], ["#de8f05", "#b97605"], ["#029e73", "#27b492"], ["#7777ff", "#8386fd"]],
  ...[["#56b4e9", "#277eaf"], ["#b33f00", "#ffa572"], ["#ddcc77", "#5c510e"], ["#003344", "#b5e3f3"]],
];
const NEAREST = 8;
const BADGE = 96;
const MOST_NAMED = 40;

function startEmbedding(data, pictures) {
  const canvas = byId("embedding-plot");
  const n = data.x.length;
  const wrong = new Set(data.misclassified);
  const all = Array.from({ length: n }, (_, i) => i);
  const ink = (k) => PALETTE[k % PALETTE.length][isDark() ? 1 : 0];
  const form = (k) => Math.floor(k / PALETTE.length) % SHAPES.length;
  const faces = new Map();
  let cursor = null;

  function paint(context, place) {
    const radius = Math.min(5, Math.max(2, 60 / Math.sqrt(n)));
    context.globalAlpha = 0.8;
    for (const i of all) {
      const [left, top] = place(data.x[i], data.y[i]);
      context.fillStyle = ink(data.label[i]);
      shape(context, form(data.label[i]), left, top, radius);
      context.fill();
    }
    context.globalAlpha = 1;
    context.strokeStyle = colour("--ink");
    context.lineWidth = 1.2;
    for (const i of wrong) {
      shape(context, 0, ...place(data.x[i], data.y[i]), radius + 2.5);
      context.stroke();
    }
  }

  /** The marked image's thumbnail beside its point, inside the canvas. */
  function badge(context, i, left, top, [width, height]) {
    const k = data.thumbnail ? data.thumbnail[i] : -1;
    if (k < 0) return;
    if (!faces.has(k)) {
      const face = new Image();
      face.onload = () => plot.show();
      face.src = pictures[k];
      faces.set(k, face);
    }
    const face = faces.get(k);
    if (!face.complete || !face.naturalWidth) return;
    const scale = BADGE / Math.max(face.naturalWidth, face.naturalHeight);
    const [wide, high] = [face.naturalWidth * scale, face.naturalHeight * scale];
    const at = [
      left + 14 + wide < width ? left + 14 : left - 14 - wide,
      top + 14 + high < height ? top + 14 : top - 14 - high,
    ];
    context.fillStyle = ink(data.label[i]);
    context.fillRect(at[0] - 2, at[1] - 2, wide + 4, high + 4);
    context.drawImage(face, ...at, wide, high);
  }

  function entry(i) {
    const picture = data.thumbnail ? data.thumbnail[i] : -1;
    const face = picture >= 0 ? make("img", { src: pictures[picture], alt: "" }) : make("span", { class: "none" });
    const button = make("button", { type: "button" }, face, named(data.classes[data.label[i]]));
    if (wrong.has(i)) button.append(make("strong", {}, "○ misclassified"));
    if (data.name) button.append(make("span", { class: "file" }, shortened(data.name[i], 32)));
    button.addEventListener("click", () => {
      aim(plot.place(i));
      plot.mark(i);
      byId("embedding-near").querySelector("button").focus();
    });
    return make("li", {}, button);
  }

  /** The images nearest to a place on the canvas, in a list. */
  function aim(position, withCross = true) {
    cursor = position;
    const near = plot.nearest(...position, NEAREST);
    plot.mark(near[0] ?? -1);
    plot.aim(withCross ? position : null);
    byId("embedding-near").replaceChildren(...near.map(entry));
  }

  function step(event) {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!move) return;
    event.preventDefault();
    const [width, height] = plot.size();
    const by = event.shiftKey ? 60 : 15;
    const [left, top] = cursor ?? [width / 2, height / 2];
    aim([
      Math.min(Math.max(left + by * move[0], 0), width),
      Math.min(Math.max(top + by * move[1], 0), height),
    ]);
  }

  const range = (values) => values.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
  let pinned = false;
  byId("embedding").hidden = false;
  const plot = scatter(canvas, {
    x: data.x,
    y: data.y,
    domain: [...range(data.x), ...range(data.y)],
    margin: [12, 12, 12, 12],
    equal: true,
    paint,
    badge,
    visible: () => all,
    met: (i, event) => {
      if (i >= 0 && !pinned) aim([event.offsetX, event.offsetY], false);
    },
    chosen: (_, event) => {
      pinned = !pinned;
      aim([event.offsetX, event.offsetY], pinned);
    },
  });
  byId("embedding-wrong").textContent = wrong.size
    ? `Ringed: ${wrong.size === 1 ? "the one image" : `the ${counted(wrong.size)} images`} misclassified.`
    : "";
  // Points have places only once they are laid out; nothing is marked before somebody points.
  plot.redraw();
  aim(
    plot.size().map((side) => side / 2),
    false,
  );
  plot.mark(-1);
  cursor = null;
  canvas.addEventListener("keydown", step);
  canvas.addEventListener("focus", () => {
    if (!cursor) aim(plot.size().map((side) => side / 2));
  });
  byId("embedding-classes").append(
    ...data.classes.slice(0, MOST_NAMED).map((name, k) => {
      const sign = make("span", { class: "sign", "aria-hidden": "true" }, SHAPES[form(k)]);
      onTheme(() => (sign.style.color = ink(k)));
      sign.style.color = ink(k);
      return make("li", {}, sign, named(name));
    }),
  );
}
