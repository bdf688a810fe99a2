// What drives a neuron: its strongest unseen images and those of other classes, each under its map
// (smoothed) and beside the cells that the map is made of.

const TILE = 112;
const BARE = 0.25;

/** What is below the centre of signed values, as the figures have it. */
const COLD = [
  ...[[0, 0, 4], [4, 20, 60], [8, 45, 110], [15, 75, 155], [30, 105, 190]],
  ...[[60, 140, 220], [100, 180, 240], [160, 215, 250], [225, 245, 255]],
];

/** A colour of the glow for a value of 0 to 1, or of -1 to 0. */
function glowing(value) {
  const scale = value < 0 ? COLD : GLOW;
  const at = Math.abs(value) * (scale.length - 1);
  const lower = Math.min(Math.floor(at), scale.length - 2);
  return scale[lower].map((from, k) => from + (at - lower) * (scale[lower + 1][k] - from));
}

/** A function that fills the place of the pictures for a pair of the table. */
function portraits(data, pictures) {
  const known = data.portraits;
  const [height, width] = known.shape;
  const size = height * width;
  const picture = unpacked(known.picture, Uint16Array);
  const label = unpacked(known.label, Uint16Array);
  const strength = unpacked(known.activation, Uint16Array);
  const cells = unpacked(known.cells, Uint8Array);
  const panel = byId("explorer-portrait");

  /** The cells of one image as pixels, `strength` of the glow by value where it is laid over. */
  function grid(k, over) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(width, height);
    for (let i = 0; i < size; i += 1) {
      const level = cells[k * size + i];
      const value = known.signed ? (level - 128) / 127 : level / 255;
      const veil = BARE + (0.75 - BARE) * Math.abs(value);
      pixels.data.set([...glowing(value), over ? 255 * veil : 255], 4 * i);
    }
    context.putImageData(pixels, 0, 0);
    return canvas;
  }

  function tile(place, k) {
    const smooth = make("canvas", { role: "img" });
    const raw = make("canvas", { role: "img", class: "raw" });
    const text = decimal((strength[k] / 65534) * known.tops[place], 2);
    const name = data.classes[label[k]];
    smooth.setAttribute("aria-label", `${shortened(name)}, activation ${text}`);
    raw.setAttribute("aria-label", `its ${height} by ${width} cells`);
    const photo = new Image();
    photo.onload = () => {
      const side = TILE / Math.max(photo.naturalWidth, photo.naturalHeight);
      const [wide, high] = [photo.naturalWidth * side, photo.naturalHeight * side].map(Math.round);
      for (const canvas of [smooth, raw]) [canvas.width, canvas.height] = [wide, high];
      const [left, top, right, bottom] = known.frames[picture[k]] ?? [0, 0, 1, 1];
      const part = [left * width, top * height, (right - left) * width, (bottom - top) * height];
      const context = smooth.getContext("2d");
      context.drawImage(photo, 0, 0, wide, high);
      context.imageSmoothingQuality = "high";
      context.drawImage(grid(k, true), ...part, 0, 0, wide, high);
      const blocks = raw.getContext("2d");
      blocks.imageSmoothingEnabled = false;
      blocks.drawImage(grid(k, false), ...part, 0, 0, wide, high);
    };
    if (picture[k] !== MISSING) photo.src = pictures[picture[k]];
    return make("li", {}, smooth, raw, make("span", {}, named(name), ` ${text}`));
  }

  function strip(place, which, title) {
    const first = (2 * place + which) * known.most;
    const some = Array.from({ length: known.most }, (_, i) => first + i).filter((k) => label[k] !== MISSING);
    return some.length
      ? [make("h4", {}, title), make("ul", { class: "tiles" }, ...some.map((k) => tile(place, k)))]
      : [];
  }

  return (table, i) => {
    const place =
      i < 0 || !table.value.confirmed(i)
        ? -1
        : known.neurons.findIndex(
            ([k, neuron]) =>
              neuron === table.value.neuron(i) && (table.value.silent(i) || k === table.classOf(i)),
          );
    panel.hidden = place < 0;
    if (place < 0) {
      panel.replaceChildren();
      return;
    }
    const [of, neuron] = known.neurons[place];
    const scale = make(
      "p",
      { class: "scale note" },
      known.signed ? `${decimal(-known.peaks[place], 2)} ` : "0 ",
      make("span", { class: known.signed ? "bar signed" : "bar", "aria-hidden": "true" }),
      ` ${decimal(known.peaks[place], 2)} in a cell (network units${known.signed ? " from its mean on train images" : ""}; one scale for all). Above: the map smoothed, over the picture; below: its ${height} × ${width} cells. The number is the mean over the cells.`,
    );
    const votes = known.votes[place]
      ? [make("p", { class: "note" }, `In the network’s own classifier it votes for: ${known.votes[place]}.`)]
      : [];
    panel.replaceChildren(
      ...strip(place, 0, `What drives neuron ${neuron} most, of unseen images`),
      ...strip(place, 1, "The strongest that are not of its class, "),
      scale,
      ...votes,
    );
    panel.querySelectorAll("h4")[1]?.append(named(data.classes[of]));
  };
}
