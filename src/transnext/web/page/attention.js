// Maps and numbers of one query, of what `provider.attention` gave. Pixels are those of the picture the network saw.

// The feature pixel nearest to a pixel: the padded convolutions centre feature pixel i on pixel i * stride.
export function nearest(pixel, stride, count) {
  return Math.min(Math.max(Math.floor(pixel / stride + 0.5), 0), count - 1);
}

// Weights of the query in a row and column, of one head or the mean over all (head null):
// {local: Float64Array [K], pooled: Float64Array [P]}.
export function weightsOf(attention, row, col, head) {
  const { heads, grid, window, local, pooled } = attention;
  const count = attention.single ? 1 : grid[0] * grid[1]; // single: of `provider.query`
  const query = attention.single ? 0 : row * grid[1] + col;
  const some = head === null ? [...Array(heads).keys()] : [head];
  const mean = (values, length) => {
    const sum = new Float64Array(length);
    for (const m of some) {
      const from = (m * count + query) * length;
      for (let k = 0; k < length; k++) sum[k] += values[from + k];
    }
    return sum.map((x) => x / some.length);
  };
  return { local: mean(local, window * window), pooled: mean(pooled, pooled.length / (heads * count)) };
}

// Share of the query's weight that its neighbourhood has, 0..1.
export function shareOf(weights) {
  return weights.local.reduce((a, b) => a + b, 0);
}

// The weights as a map over the feature pixels, Float64Array [h * w]: a neighbour's on its pixel, a pooled key's spread
// evenly over the pixels that it was pooled from. `part` is "both", "local" or "pool".
export function fieldOf(attention, weights, row, col, part) {
  const { grid: [h, w], pool, window } = attention;
  const field = new Float64Array(h * w);
  if (part !== "local") {
    const [ph, pw] = pool ?? [h, w];
    const rows = binsOf(h, ph);
    const cols = binsOf(w, pw);
    for (let p = 0; p < ph; p++) {
      for (let q = 0; q < pw; q++) {
        const [top, bottom] = rows[p];
        const [left, right] = cols[q];
        const value = weights.pooled[p * pw + q] / ((bottom - top) * (right - left));
        for (let y = top; y < bottom; y++) for (let x = left; x < right; x++) field[y * w + x] += value;
      }
    }
  }
  if (part !== "pool") {
    for (let k = 0; k < window * window; k++) {
      const y = row + Math.floor(k / window) - (window >> 1);
      const x = col + (k % window) - (window >> 1);
      if (y >= 0 && y < h && x >= 0 && x < w) field[y * w + x] += weights.local[k];
    }
  }
  return field;
}

// What is drawn of a region, of what `provider.region` gave: its map, Float64Array [h * w], and the share of its weight
// that is in the foveas of its queries.
export function regionOf({ heads, grid, local, pooled }, head, part) {
  const count = grid[0] * grid[1];
  const field = new Float64Array(count);
  const some = head === null ? [...Array(heads).keys()] : [head];
  let share = 0;
  for (const m of some) {
    for (let i = 0; i < count; i++) {
      const near = local[m * count + i] / some.length;
      share += near;
      field[i] += (part === "pool" ? 0 : near) + (part === "local" ? 0 : pooled[m * count + i] / some.length);
    }
  }
  return { field, share };
}

// Begin and end of the bins of adaptive average pooling.
function binsOf(size, bins) {
  return Array.from({ length: bins }, (_, p) => [Math.floor((p * size) / bins), Math.ceil(((p + 1) * size) / bins)]);
}

// The map at the size of the picture, divided by its maximum: Float32Array [height * width], 0..1. Bilinear, each
// feature pixel standing where the receptive field of its patch is centred, i * stride.
export function heatOf(field, [h, w], stride, height, width) {
  const heat = new Float32Array(height * width);
  const largest = field.reduce((a, b) => Math.max(a, b), 0);
  if (largest === 0) return heat;
  const line = new Float64Array(w);
  const [left, share] = tapsOf(width, w, stride);
  for (let y = 0, to = 0; y < height; y++) {
    const place = Math.min(y / stride, h - 1);
    const above = Math.min(Math.floor(place), h - 1);
    const below = Math.min(above + 1, h - 1);
    const fraction = place - above;
    for (let x = 0; x < w; x++) {
      line[x] = ((1 - fraction) * field[above * w + x] + fraction * field[below * w + x]) / largest;
    }
    for (let x = 0; x < width; x++) {
      const from = left[x];
      heat[to++] = line[from] + share[x] * (line[Math.min(from + 1, w - 1)] - line[from]);
    }
  }
  return heat;
}

function tapsOf(size, count, stride) {
  const left = new Int32Array(size);
  const share = new Float64Array(size);
  for (let x = 0; x < size; x++) {
    const place = Math.min(x / stride, count - 1);
    left[x] = Math.floor(place);
    share[x] = place - left[x];
  }
  return [left, share];
}

// A sentence for people who do not see the map.
export function summaryOf(attention, weights, row, col) {
  const { grid: [h, w], pool, window } = attention;
  const at = `Row ${row + 1}, column ${col + 1} of ${h} × ${w}`;
  const [ph, pw] = pool ?? [h, w];
  let best = 0;
  for (let p = 1; p < weights.pooled.length; p++) if (weights.pooled[p] > weights.pooled[best]) best = p;
  const place = placeOf((Math.floor(best / pw) + 0.5) / ph, ((best % pw) + 0.5) / pw);
  const most = `most at the ${place} (${percent(weights.pooled[best])})`;
  if (pool === null) return `${at}: all of the weight goes to the ${h} × ${w} pixels of the map, ${most}.`;
  const share = shareOf(weights);
  return (
    `${at}: ${percent(share)} of the weight stays in the fovea of ${window} × ${window}, ` +
    `${percent(1 - share)} goes to the pooled grid of ${ph} × ${pw}, ${most}.`
  );
}

// The same of a region; `name` of the object or class.
export function summaryOfRegion(name, { inside, grid: [h, w], window }, field, share) {
  const queries = inside.reduce((a, b) => a + b, 0);
  let best = 0;
  for (let i = 1; i < field.length; i++) if (field[i] > field[best]) best = i;
  const place = placeOf((Math.floor(best / w) + 0.5) / h, ((best % w) + 0.5) / w);
  const near = window === 0 ? "" : `${percent(share)} of the weight stays in foveas of ${window} × ${window}, `;
  return `${name}, mean of the ${queries} of ${h} × ${w} queries in it: ${near}most at the ${place} (${percent(field[best])}).`;
}

export function percent(x) {
  return `${(100 * x).toFixed(1)} %`;
}

function placeOf(y, x) {
  const third = (v) => Math.min(2, Math.floor(3 * v));
  const names = [
    ["top left", "top", "top right"],
    ["left", "centre", "right"],
    ["bottom left", "bottom", "bottom right"],
  ];
  return names[third(y)][third(x)];
}
