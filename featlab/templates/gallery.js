// Test images under heat maps: pick both, slide opacity and threshold, and see the box follow.

/** The heat map's colours, dark to bright (matplotlib's inferno at equal steps). */
const GLOW = [
  ...[[0, 0, 4], [31, 12, 72], [85, 15, 109], [136, 34, 106], [186, 54, 85]],
  ...[[227, 89, 51], [249, 140, 10], [249, 201, 50], [252, 255, 164]],
];

function startGallery(data, pictures) {
  const maps = data.heats.map((heat) => unpacked(heat.values, Uint16Array));
  const canvas = byId("gallery-canvas");
  const pick = byId("gallery-heat");
  const opacity = byId("gallery-opacity");
  const threshold = byId("gallery-threshold");
  const photo = new Image();
  const glow = document.createElement("canvas");
  [glow.width, glow.height] = [GRID, GRID];
  let image = 0;
  let fine = null;

  const groups = {};
  data.heats.forEach((heat, k) => {
    const name = heat.neuron ? `neuron ${heat.neuron[1]}, ${shortened(heat.neuron[0], 40)}` : heat.name;
    const group = heat.neuron ? "Detectors" : "Methods";
    if (!groups[group]) pick.append((groups[group] = make("optgroup", { label: group })));
    groups[group].append(make("option", { value: k }, name));
  });
  const thumbnails = data.images.map((one, k) => {
    const face = make("img", { src: pictures[one.picture], alt: "", decoding: "async" });
    const button = make("button", { type: "button", title: one.label }, face);
    button.setAttribute("aria-label", `image ${k + 1}: ${shortened(one.label)}`);
    button.addEventListener("click", () => choose(k));
    return button;
  });
  byId("gallery-images").append(...thumbnails);

  const heat = () => data.heats[Number(pick.value)];

  function choose(k) {
    image = k;
    thumbnails.forEach((button, i) => button.setAttribute("aria-pressed", String(i === k)));
    photo.onload = update;
    photo.src = pictures[data.images[k].picture];
  }

  /** Another image or heat map: the fine map anew. */
  function update() {
    const [height, width] = heat().shape;
    const cells = height * width;
    const coarse = maps[Number(pick.value)].subarray(image * cells, (image + 1) * cells);
    fine = fineHeat(coarse, height, width, data.images[image].frame);
    const pixels = glow.getContext("2d").createImageData(GRID, GRID);
    fine.forEach((value, i) => {
      const at = value * (GLOW.length - 1);
      const lower = Math.min(Math.floor(at), GLOW.length - 2);
      for (let k = 0; k < 3; k += 1) {
        const [a, b] = [GLOW[lower][k], GLOW[lower + 1][k]];
        pixels.data[4 * i + k] = a + (at - lower) * (b - a);
      }
      pixels.data[4 * i + 3] = 255;
    });
    glow.getContext("2d").putImageData(pixels, 0, 0);
    draw();
  }

  function draw() {
    const { boxes, label, regressed } = data.images[image];
    const wide = Math.min(1, photo.naturalWidth / photo.naturalHeight);
    const high = Math.min(1, photo.naturalHeight / photo.naturalWidth);
    [canvas.width, canvas.height] = [Math.round(800 * wide), Math.round(800 * high)];
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(photo, 0, 0, canvas.width, canvas.height);
    context.globalAlpha = Number(opacity.value) / 100;
    context.drawImage(glow, 0, 0, canvas.width, canvas.height);
    context.globalAlpha = 1;
    const box = hotBox(fine, Number(threshold.value));
    for (const one of boxes) outline(context, one, "#ffffff");
    if (box) outline(context, box, "#56b4e9");
    if (regressed) outline(context, regressed, "#4be38a", [16, 7]);
    tell(box, best(box, boxes), label, regressed ? best(regressed, boxes) : null);
  }

  /** IoU of a box (0 where there is none) with the best true one, null without any. */
  function best(box, boxes) {
    if (!boxes.length) return null;
    return box ? Math.max(...boxes.map((one) => overlap(box, one))) : 0;
  }

  function outline(context, box, ink, dashes = []) {
    const [left, top] = [box[0] * canvas.width, box[1] * canvas.height];
    const [wide, high] = [(box[2] - box[0]) * canvas.width, (box[3] - box[1]) * canvas.height];
    for (const [width, style] of [[8, "rgba(0, 0, 0, 0.55)"], [4, ink]]) {
      context.lineWidth = width;
      context.strokeStyle = style;
      context.setLineDash(dashes);
      context.strokeRect(left, top, wide, high);
    }
  }

  function tell(box, iou, label, regressed) {
    const own = heat().threshold;
    byId("gallery-opacity-value").textContent = `${opacity.value}\u00a0%`;
    byId("gallery-threshold-value").textContent = decimal(Number(threshold.value));
    byId("gallery-own").hidden = own === null;
    byId("gallery-own").disabled = own === null || Math.abs(own - threshold.value) < 0.005;
    if (own !== null) {
      byId("gallery-own").textContent = heat().neuron
        ? `Back to the threshold of single detectors (${decimal(own)})`
        : `Back to the method’s own threshold (${decimal(own)})`;
    }
    canvas.dataset.box = box ? box.join(" ") : "";
    canvas.dataset.iou = iou ?? "";
    const area = box ? (box[2] - box[0]) * (box[3] - box[1]) : 0;
    canvas.dataset.regressed = regressed ?? "";
    const found = (value) => (value >= 0.5 ? "found (IoU ≥ 0.5)" : "not found (IoU < 0.5)");
    const other =
      regressed === null ? "" : ` Box regression: ${decimal(regressed)}, ${found(regressed)}.`;
    const region = box ? `The box covers ${percent(area)} of the picture.` : "The map is flat: no box.";
    const verdict =
      iou === null
        ? "There is no true box to compare it with."
        : `IoU with the best true box ${decimal(iou)}: ${found(iou)}.`;
    byId("gallery-verdict").textContent = `${region}${box ? ` ${verdict}` : ""}${other}`;
    byId("gallery-name").replaceChildren(named(label), ` (${image + 1} of ${data.images.length})`);
    canvas.setAttribute("aria-label", `Image ${image + 1}, ${label}, under its heat map`);
  }

  function back() {
    if (heat().threshold !== null) threshold.value = heat().threshold;
  }

  pick.addEventListener("change", () => {
    back();
    update();
  });
  for (const slider of [opacity, threshold]) slider.addEventListener("input", draw);
  byId("gallery-own").addEventListener("click", () => {
    back();
    draw();
    threshold.focus();
  });
  pick.selectedIndex = 0;
  if (heat().threshold === null) threshold.value = 0.5;
  back();
  choose(0);
  byId("gallery").hidden = false;
}
