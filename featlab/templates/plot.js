// Points on a canvas: what is near the pointer, which one is marked. Used by both scatter plots.

/** Round steps that cover `from`..`to` with about `count` lines. */
function ticks(from, to, count) {
  const raw = (to - from) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((k) => k * power).find((s) => s >= raw * 0.999);
  const first = Math.ceil(from / step - 1e-9);
  const last = Math.floor(to / step + 1e-9);
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, k) => (first + k) * step);
}

/**
 * A scatter plot of points `x`, `y`.
 *
 * `domain` is [x from, x to, y from, y to]; `margin` [left, right, top, bottom] in CSS pixels;
 * `paint(context, place, size)` draws all that stands still; `visible()` gives the points that can
 * be met. `met(point or -1, event)` hears of the pointer, `chosen(point or -1, event)` of a click;
 * `badge(context, point, left, top, size)` draws something beside the marked point.
 */
function scatter(canvas, { x, y, domain, margin, equal, paint, visible, met, chosen, badge }) {
  const still = document.createElement("canvas");
  let size = [0, 0];
  let place = () => [0, 0];
  let marked = -1;
  let cross = null;

  function layout() {
    const ratio = window.devicePixelRatio || 1;
    size = [canvas.clientWidth, canvas.clientHeight];
    for (const one of [canvas, still]) {
      one.width = Math.round(size[0] * ratio);
      one.height = Math.round(size[1] * ratio);
      one.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
    }
    const [left, right, top, bottom] = margin;
    const wide = Math.max(1, size[0] - left - right);
    const high = Math.max(1, size[1] - top - bottom);
    let [across, up] = [wide / (domain[1] - domain[0]), high / (domain[3] - domain[2])];
    if (equal) across = up = Math.min(across, up);
    const shift = [
      left + (wide - across * (domain[1] - domain[0])) / 2,
      top + (high + up * (domain[3] - domain[2])) / 2,
    ];
    place = (a, b) => [shift[0] + (a - domain[0]) * across, shift[1] - (b - domain[2]) * up];
  }

  function redraw() {
    if (!canvas.clientWidth) return;
    layout();
    const context = still.getContext("2d");
    context.clearRect(0, 0, ...size);
    paint(context, place, size);
    show();
  }

  function show() {
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, ...size);
    context.drawImage(still, 0, 0, ...size);
    context.strokeStyle = colour("--ink");
    if (marked >= 0) {
      const [left, top] = place(x[marked], y[marked]);
      context.lineWidth = 2;
      context.beginPath();
      context.arc(left, top, 7, 0, 2 * Math.PI);
      context.stroke();
      badge?.(context, marked, left, top, size);
    }
    if (cross) {
      context.lineWidth = 1.5;
      context.beginPath();
      context.moveTo(cross[0] - 9, cross[1]);
      context.lineTo(cross[0] + 9, cross[1]);
      context.moveTo(cross[0], cross[1] - 9);
      context.lineTo(cross[0], cross[1] + 9);
      context.stroke();
    }
  }

  /** The `count` visible points nearest to a place on the canvas, no farther than `reach`. */
  function nearest(left, top, count = 1, reach = Infinity) {
    const best = [];
    for (const i of visible()) {
      const [a, b] = place(x[i], y[i]);
      const far = (a - left) ** 2 + (b - top) ** 2;
      if (far > reach * reach || (best.length === count && far >= best[count - 1][0])) continue;
      best.push([far, i]);
      best.sort((one, other) => one[0] - other[0]);
      best.length = Math.min(best.length, count);
    }
    return best.map(([, i]) => i);
  }

  const under = (event) => nearest(event.offsetX, event.offsetY, 1, 14)[0] ?? -1;
  canvas.addEventListener("pointermove", (event) => met(under(event), event));
  canvas.addEventListener("pointerleave", (event) => met(-1, event));
  canvas.addEventListener("click", (event) => chosen(under(event), event));
  new ResizeObserver(redraw).observe(canvas);
  onTheme(redraw);

  return {
    redraw,
    show,
    nearest,
    place: (i) => place(x[i], y[i]),
    size: () => size,
    mark(point) {
      marked = point;
      show();
    },
    aim(position) {
      cross = position;
      show();
    },
  };
}

const SHAPES = "●■▲◆▼";

/** One point's shape, centred on `left`, `top`; `k` as in `SHAPES`. */
function shape(context, k, left, top, r) {
  context.beginPath();
  if (k === 0) context.arc(left, top, r, 0, 2 * Math.PI);
  else if (k === 1) context.rect(left - r * 0.9, top - r * 0.9, r * 1.8, r * 1.8);
  else {
    const up = k === 4 ? -1 : 1;
    const low = k === 3 ? top : top + up * r * 0.9;
    context.moveTo(left, top - up * r * 1.2);
    context.lineTo(left + r * 1.1, low);
    if (k === 3) context.lineTo(left, top + r * 1.2);
    context.lineTo(left - r * 1.1, low);
    context.closePath();
  }
}
