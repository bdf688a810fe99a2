// The volcano plot of the explorer: effect to the right, evidence upwards.

const CHOSEN = ["--other", "--selected", "--confirmed"];

function volcano(canvas, data, table, shown, met, chosen) {
  const { value } = table;
  const x = Float32Array.from({ length: table.n }, (_, i) => value.auroc(i));
  const y = Float32Array.from({ length: table.n }, (_, i) => {
    const p = value.p_adjusted(i);
    return p === null ? NaN : -Math.log10(p);
  });
  let top = 2;
  for (const height of y) if (Number.isFinite(height)) top = Math.max(top, height);
  top *= 1.06;
  // A p-value of 0, below what a number can hold, stands at the upper edge.
  for (let i = 0; i < y.length; i += 1) if (y[i] === Infinity) y[i] = top;
  let [low, high] = [0.4, 0.6];
  for (const effect of x) [low, high] = [Math.min(low, effect), Math.max(high, effect)];
  const domain = [Math.max(0, low) - 0.02, Math.min(1, high) + 0.02, -top * 0.02, top];

  function axes(context, place, [width, height]) {
    context.font = "12px system-ui, sans-serif";
    context.fillStyle = colour("--soft");
    context.strokeStyle = colour("--line");
    context.lineWidth = 1;
    context.textAlign = "center";
    for (const tick of ticks(domain[0], domain[1], Math.max(3, width / 80))) {
      const left = place(tick, 0)[0];
      line(context, left, place(0, top)[1], left, height - 40);
      context.fillText(decimal(tick, 1), left, height - 24);
    }
    context.fillText("AUROC for the class, train images", (width + 44) / 2, height - 6);
    context.textAlign = "right";
    for (const tick of ticks(0, top, 5)) {
      const above = place(0.5, tick)[1];
      line(context, place(domain[0], 0)[0], above, width - 8, above);
      context.fillText(String(tick), 40, above + 4);
    }
    context.save();
    context.translate(11, height / 2 - 16);
    context.rotate(-Math.PI / 2);
    context.textAlign = "center";
    context.fillText("−log10 adjusted p", 0, 0);
    context.restore();
    context.setLineDash([4, 3]);
    context.strokeStyle = colour("--soft");
    if (data.alpha) {
      const above = place(0.5, -Math.log10(data.alpha))[1];
      line(context, place(domain[0], 0)[0], above, width - 8, above);
    }
    for (const cut of data.min_auroc ? [data.min_auroc, 1 - data.min_auroc] : []) {
      line(context, place(cut, 0)[0], place(0, top)[1], place(cut, 0)[0], height - 40);
    }
    context.setLineDash([]);
  }

  function line(context, ...[fromX, fromY, toX, toY]) {
    context.beginPath();
    context.moveTo(Math.round(fromX) + 0.5, Math.round(fromY) + 0.5);
    context.lineTo(Math.round(toX) + 0.5, Math.round(toY) + 0.5);
    context.stroke();
  }

  function paint(context, place, size) {
    axes(context, place, size);
    // The commonest first, so that detectors are not covered.
    for (const state of [0, 1, 2]) {
      context.fillStyle = colour(CHOSEN[state]);
      context.globalAlpha = state ? 0.85 : 0.6;
      for (const i of shown()) {
        if (value.state(i) !== state || Number.isNaN(y[i])) continue;
        const [left, above] = place(x[i], y[i]);
        if (state === 0) context.fillRect(left - 1, above - 1, 2.5, 2.5);
        else {
          shape(context, state === 1 ? 3 : 0, left, above, 3);
          context.fill();
        }
      }
    }
    context.globalAlpha = 1;
  }

  const margin = [48, 10, 10, 40];
  return scatter(canvas, { x, y, domain, margin, paint, visible: shown, met, chosen });
}
