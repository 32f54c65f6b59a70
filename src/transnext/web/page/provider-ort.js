// The model in this page: ONNX Runtime in WebAssembly, from what the page carries; nothing is fetched.
//
// What the page asks of a provider, this one or the server's, both made by `open(setup)`:
//
//   provider.models(): Promise<[{id, name, task, classes: [string], sizes: {min, max, step, default} | null,
//       modes: [string], blocks: [{stage, block, stride, heads, window}]}]>
//     `sizes` in pixels, null where there is one alone; `stage` and `block` count from 0, as in Python; `stride` is
//     image pixels between feature pixels; `window` is the side of the fovea, null for blocks that attend globally.
//   provider.see(bytes: Blob, {model, size, mode}): Promise<{id, width, height, grid: [[h, w] of each stage],
//       answer: {top: [{name, score}]}
//             | {objects: [{name, score, box: [x0, y0, x1, y1]}]}       pixels of `shown`
//             | {map: {picture: ImageBitmap, classes: [{name, colour, share}]}},   CSS colours, shares 0..1
//       shown: ImageBitmap of exactly what the network saw, width x height}>
//     Rejects with an Error whose message is one line for the user.
//   provider.attention({image: id, stage, block}): Promise<{heads, grid: [h, w], pool: [ph, pw] | null, window,
//       local: Float32Array [heads * N * K], pooled: Float32Array [heads * N * P]} | null>
//     Softmax weights of all queries of a block, heads first, then queries in rows, then keys: K = window ** 2 from the
//     top left, 0 outside the map; P = ph * pw. Of a block that attends globally `pool` is null, `window` 0, K = 0 and
//     P = N: its keys are the pixels. null where that is too large: then the page asks `query`.
//     The page keeps what it got, so moving the pointer asks nothing.
//   provider.region, of the server alone: the mean over the queries of an object of the answer; see there.
//   provider.query({image, stage, block, y, x}): the same with N = 1, of the feature pixel in row y and column x.

import { pixelsOf, bitmapOf } from "./pixels.js";

// Unpacks an element of the page that holds gzip in base64, and removes it: it is large.
async function unpacked(id) {
  const element = document.getElementById(id);
  const text = atob(element.textContent.trim());
  element.remove();
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const KEPT = 2; // images whose attention is in memory: the one that is shown, and the next

class OrtProvider {
  constructor(setup, ort, prepare, network) {
    Object.assign(this, { model: setup.model, ort, prepare, network, images: new Map(), next: 0 });
    this.last = Promise.resolve(); // one image after the other: a session runs once at a time
    this.timings = []; // of `see`, ms
  }

  async models() {
    const { id, name, classes, sizes, mode, blocks } = this.model;
    return [{ id, name, task: "classification", classes, sizes, modes: [mode], blocks }];
  }

  // Runs the network on normalised images, Float32Array [3 * height * width], and keeps all weights under an id.
  async lookAt(images, height, width) {
    const out = await this.network.run({ images: new this.ort.Tensor("float32", images, [1, 3, height, width]) });
    const id = String(this.next++);
    const grid = [];
    for (const { stage, stride } of this.model.blocks) grid[stage] = [height, width].map((n) => Math.ceil(n / stride));
    this.images.set(id, { weights: out, grid });
    if (this.images.size > KEPT) this.images.delete(this.images.keys().next().value);
    return { id, grid, logits: out.logits.data };
  }

  // What the network gets of the bytes of a file: {images: Float32Array, shown: Uint8Array [height, width, 3], height, width}.
  async prepared(blob, size) {
    const [height, width] = size == null ? this.model.imageSize : [size, size];
    const leastSide = 2 * Math.ceil(Math.max(height, width) / this.model.cropShare);
    const pixels = await pixelsOf(blob, leastSide);
    const out = await this.prepare.run({
      pixels: new this.ort.Tensor("uint8", pixels.data, [pixels.height, pixels.width, 4]),
      size: new this.ort.Tensor("int64", BigInt64Array.of(BigInt(height), BigInt(width)), [2]),
    });
    return { images: out.images.data, shown: out.shown.data, height, width };
  }

  see(blob, { size }) {
    const seen = this.last.then(() => this.seen(blob, size));
    this.last = seen.catch(() => {});
    return seen;
  }

  async seen(blob, size) {
    const start = performance.now();
    const { images, shown, height, width } = await this.prepared(blob, size);
    const { id, grid, logits } = await this.lookAt(images, height, width);
    const answer = { top: likeliest(logits, this.model.classes, 5) };
    const seen = { id, width, height, grid, answer, shown: await bitmapOf(shown, height, width) };
    this.timings.push(performance.now() - start);
    return seen;
  }

  async attention({ image, stage, block }) {
    const kept = this.images.get(image);
    if (kept === undefined) throw new Error("the picture has been replaced by another");
    const { heads, window, ratio, pool } = this.model.blocks.find((b) => b.stage === stage && b.block === block);
    const grid = kept.grid[stage];
    const pooled = kept.weights[`pool${stage}_${block}`].data;
    if (window === null) return { heads, grid, pool: null, window: 0, local: new Float32Array(0), pooled };
    const bins = pool ?? grid.map((n) => Math.max(1, Math.floor(n / ratio)));
    return { heads, grid, pool: bins, window, local: kept.weights[`local${stage}_${block}`].data, pooled };
  }
}

// The classes of the largest logits with their softmax.
function likeliest(logits, classes, number) {
  const largest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = Float64Array.from(logits, (x) => Math.exp(x - largest));
  const sum = powers.reduce((a, b) => a + b, 0);
  const order = [...powers.keys()].sort((a, b) => powers[b] - powers[a] || a - b);
  return order.slice(0, number).map((i) => ({ name: classes[i], score: powers[i] / sum }));
}

export async function open(setup) {
  const [script, wasm, prepare, network] = await Promise.all(["ort", "wasm", "prepare", "network"].map(unpacked));
  const url = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
  const ort = await import(url);
  URL.revokeObjectURL(url);
  ort.env.wasm.wasmBinary = wasm; // else it would be fetched
  ort.env.wasm.numThreads = 1; // pages from a disk have no shared memory
  // The graph is small already: to make it smaller takes longer than that saves in many images.
  const options = { executionProviders: ["wasm"], graphOptimizationLevel: "disabled" };
  const sessions = [];
  for (const graph of [prepare, network]) sessions.push(await ort.InferenceSession.create(graph, options));
  return new OrtProvider(setup, ort, ...sessions);
}
