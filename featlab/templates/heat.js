// Coarse heat map → fine heat map → box, by the rule with which the report's scores were made:
// bilinear to 224 × 224 over the picture, scaled to [0, 1] by its own range, 8 bits, then what is
// > threshold · max; of the regions (8 neighbours) the one that encloses most is boxed.
// Simplified in one thing: the coarse maps are stored with 16 bits, so that a box may differ by
// a pixel of that grid from the one of the unrounded map.

const GRID = 224;

/** For each of `count` samples of [from, to] the lower cell and the share of the one above it. */
function samples(count, cells, from, to) {
  return Array.from({ length: count }, (_, i) => {
    const where = (from + ((i + 0.5) / count) * (to - from)) * cells - 0.5;
    const inside = Math.min(Math.max(where, 0), cells - 1);
    const lower = Math.min(Math.floor(inside), Math.max(cells - 2, 0));
    return [lower, Math.min(lower + 1, cells - 1), inside - lower];
  });
}

/** The part of a map that the picture covers (`frame`), fine and scaled to [0, 1]. */
function fineHeat(coarse, height, width, frame) {
  const across = samples(GRID, width, frame[0], frame[2]);
  const down = samples(GRID, height, frame[1], frame[3]);
  const fine = new Float32Array(GRID * GRID);
  let [low, high] = [Infinity, -Infinity];
  down.forEach(([above, below, v], i) => {
    across.forEach(([left, right, u], j) => {
      const [a, b] = [coarse[above * width + left], coarse[above * width + right]];
      const [c, d] = [coarse[below * width + left], coarse[below * width + right]];
      const value = Math.fround((1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * c + u * d));
      fine[i * GRID + j] = value;
      low = Math.min(low, value);
      high = Math.max(high, value);
    });
  });
  if (high - low <= 0) return fine.fill(0);
  return fine.map((value) => (value - low) / (high - low));
}

/** The box around the largest region, [xmin, ymin, xmax, ymax] in units of the picture, or null. */
function hotBox(fine, threshold) {
  const pixels = Uint8Array.from(fine, (value) => Math.fround(value * 255));
  const cut = Math.floor(threshold * pixels.reduce((a, b) => Math.max(a, b), 0));
  const region = new Int32Array(GRID * GRID);
  const stack = new Int32Array(GRID * GRID);
  const boxes = [null];
  for (let first = 0; first < region.length; first += 1) {
    if (pixels[first] <= cut || region[first]) continue;
    const box = [GRID, GRID, 0, 0];
    let waiting = 1;
    [stack[0], region[first]] = [first, boxes.length];
    while (waiting) {
      waiting -= 1;
      const at = stack[waiting];
      const [row, column] = [Math.floor(at / GRID), at % GRID];
      box[0] = Math.min(box[0], column);
      box[1] = Math.min(box[1], row);
      box[2] = Math.max(box[2], column + 1);
      box[3] = Math.max(box[3], row + 1);
      for (let i = Math.max(row - 1, 0); i <= Math.min(row + 1, GRID - 1); i += 1) {
        for (let j = Math.max(column - 1, 0); j <= Math.min(column + 1, GRID - 1); j += 1) {
          const next = i * GRID + j;
          if (pixels[next] <= cut || region[next]) continue;
          region[next] = boxes.length;
          stack[waiting] = next;
          waiting += 1;
        }
      }
    }
    boxes.push(box);
  }
  const areas = enclosed(region, boxes.length);
  // Among equals the last one counts, as in the scores.
  let best = 0;
  for (let k = 1; k < boxes.length; k += 1) if (best === 0 || areas[k] >= areas[best]) best = k;
  return best ? boxes[best].map((value) => value / GRID) : null;
}

/** Area of the polygon through the centres of each region's border pixels, less that of holes. */
function enclosed(region, count) {
  const areas = new Float64Array(count);
  for (let i = 0; i + 1 < GRID; i += 1) {
    for (let j = 0; j + 1 < GRID; j += 1) {
      const at = i * GRID + j;
      const four = [region[at], region[at + 1], region[at + GRID], region[at + GRID + 1]];
      const hot = four.filter(Boolean);
      // Of four pixels in a square, four hot ones enclose 1 and three 1/2; they touch.
      if (hot.length > 2) areas[hot[0]] += hot.length === 4 ? 1 : 0.5;
    }
  }
  return areas;
}

function overlap(a, b) {
  const wide = Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0]));
  const high = Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  const union = area(a) + area(b) - wide * high;
  return union > 0 ? (wide * high) / union : 0;
}
