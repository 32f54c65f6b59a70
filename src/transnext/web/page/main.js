// The page: from what a user does to what is asked of the provider and drawn.

import { fieldOf, heatOf, nearest, regionOf, shareOf, summaryOf, summaryOfRegion, weightsOf } from "./attention.js";
import { Controls } from "./controls.js";
import { Painter } from "./draw.js";
import { fingerprintOf, format, parse } from "./state.js";

const DEFAULTS = { head: null, part: "both", opacity: 65, object: null };
const PAUSE = 300; // ms without a change before it is said aloud and written to the address
const PARTS_IN_TURN = ["both", "local", "pool"];

export async function start(open) {
  const setup = JSON.parse(document.getElementById("setup").textContent);
  document.getElementById("footer").textContent = (setup.credits ?? []).join(" ");
  try {
    const explorer = new Explorer(await open(setup), setup.examples ?? []);
    globalThis.explorer = explorer; // for the console, and for tests
    await explorer.begin();
  } catch (error) {
    document.getElementById("problem").textContent = `This page cannot start: ${error.message}`;
  }
  document.body.dataset.ready = "";
}

// The weights of a query, and its map over the feature pixels and over the pixels of the picture.
function mapOf(attention, row, col, { head, part, stride, height, width }) {
  const weights = weightsOf(attention, row, col, head);
  const field = fieldOf(attention, weights, row, col, part);
  return { weights, field, heat: heatOf(field, attention.grid, stride, height, width) };
}

// Events: "state" when something else was chosen, "seen" when another picture or another answer is shown.
class Explorer extends EventTarget {
  // `examples` are {name, type, data in base64} or {name, url}.
  constructor(provider, examples) {
    super();
    this.provider = provider;
    this.examples = examples.map((example) => ({
      ...example,
      url: example.url ?? `data:${example.type};base64,${example.data}`,
    }));
    this.painter = new Painter(document.getElementById("canvas"));
    this.controls = new Controls({ change: (part) => this.change(part), take: (file) => this.take(file) });
    this.controls.listenToPicture({
      move: (place, force) => this.move(place, force),
      step: (rows, cols) => this.step(rows, cols),
      hold: () => this.hold(),
      turn: (name, by) => this.turn(name, by),
    });
    this.controls.listenToAnswer((object) => this.choose(object));
    this.controls.listenToButtons({ copy: () => this.copy(), save: () => this.save() });
    this.state = { ...DEFAULTS };
    this.file = null; // the Blob that is shown
    this.seen = null; // what the provider made of it
    this.good = null; // the state that it was made for
    this.measure = null; // {width, height} that `state.at` is in pixels of; null for the next picture's
    this.known = null; // {seen, block, attention}, null where all queries are too much
    this.held = false;
    this.looks = 0; // how often `look` was called: the last call wins
    this.timings = []; // of draw, ms
    this.mapOf = mapOf;
  }

  async begin() {
    this.models = await this.provider.models();
    this.controls.showExamples(this.examples, (index) => this.takeExample(index));
    addEventListener("hashchange", () => this.restore());
    await this.restore();
  }

  // Shows what the address says.
  async restore() {
    const said = parse(location.hash);
    this.state = { ...DEFAULTS, ...said };
    this.settle();
    this.controls.showModels(this.models, this.model);
    this.tell();
    this.measure = null;
    const index = said.image === undefined ? 0 : this.examples.findIndex(({ name }) => name === said.image);
    if (this.good && this.good.image === said.image) await this.look();
    else if (this.examples[index]) await this.takeExample(index, said);
    else if (said.image !== undefined) {
      this.controls.showProblem(`This link was made with ${said.name ?? "another image"}: choose or drop that image.`);
    }
  }

  tell() {
    this.controls.showState(this.state, this.block ?? NO_BLOCK);
    this.dispatchEvent(new Event("state"));
  }

  // Fills in what the state leaves open, and puts right what the model does not have.
  settle() {
    const { state } = this;
    this.model = this.models.find(({ id }) => id === state.model) ?? this.models[0];
    const { model } = this;
    state.model = model.id;
    if (!model.modes.includes(state.mode)) state.mode = model.modes[0];
    const { sizes } = model;
    if (sizes === null) delete state.size;
    else if (!(state.size >= sizes.min && state.size <= sizes.max && state.size % sizes.step === 0)) {
      state.size = sizes.default;
    }
    const { blocks } = model;
    this.block = blocks.find((b) => b.stage === state.stage && b.block === state.block);
    this.block ??= blocks.filter((b) => b.window !== null).at(-1) ?? blocks.at(-1) ?? null;
    if (this.block === null) return;
    Object.assign(state, { stage: this.block.stage, block: this.block.block });
    if (state.head >= this.block.heads) state.head = null;
    if (this.block.window === null) state.part = "both";
  }

  async change(part) {
    const anew = ["model", "size", "mode"].some((name) => name in part);
    Object.assign(this.state, part, anew && { object: null }); // another answer has other objects
    this.settle();
    if ("model" in part) this.controls.showModels(this.models, this.model);
    this.tell();
    if (anew) await this.look();
    else if ("stage" in part || "block" in part) await this.attend();
    else this.drawSoon();
  }

  // A file from the user.
  async take(file) {
    this.controls.showBusy(true);
    let image;
    try {
      image = await fingerprintOf(file);
    } catch {
      this.controls.showBusy(false);
      this.controls.showProblem(`${file.name} cannot be read`);
      return;
    }
    const { at, object } = this.state.image === image ? this.state : { object: null };
    await this.look(file, { image, name: file.name, at, object });
  }

  async takeExample(index, { at, object = null } = {}) {
    const example = this.examples[index];
    this.controls.showBusy(true);
    await this.look(await blobOf(example), { image: example.name, name: undefined, at, object });
  }

  // Asks the provider about a file, the one shown by default; `part` of the state is for it.
  async look(file = this.file, part = {}) {
    const turn = ++this.looks;
    if (file === null) {
      this.controls.showBusy(false);
      return;
    }
    this.controls.showBusy(true);
    this.controls.showProblem("");
    await new Promise((done) => setTimeout(done)); // lets the browser show that
    try {
      const { model, size, mode } = this.state;
      const seen = await this.provider.see(file, { model, size, mode });
      if (turn !== this.looks) return;
      Object.assign(this.state, part);
      this.place(seen, file !== this.file);
      Object.assign(this, { file, seen, known: null, good: { ...this.state } });
      this.painter.show(seen.shown);
      const choices = this.provider.region === undefined || this.block === null ? 0 : this.controls.regions(seen.answer);
      if (this.state.object >= choices) this.state.object = null;
      this.controls.showAnswer(seen.answer, choices > 0);
      this.controls.showChosen(this.state.object);
      this.controls.markExample(this.examples.findIndex(({ name }) => name === this.state.image));
      this.dispatchEvent(new Event("seen"));
      await this.attend();
    } catch (error) {
      if (turn === this.looks) this.refuse(error);
    } finally {
      if (turn === this.looks) this.controls.showBusy(false);
    }
  }

  // Says what went wrong; the picture that is shown, and the state that it was made for, stay.
  refuse(error) {
    this.controls.showProblem(error.message);
    if (this.good === null) return;
    const { model, size, mode } = this.good;
    Object.assign(this.state, { model, size, mode });
    this.settle();
    this.controls.showModels(this.models, this.model);
    this.tell();
  }

  // The query keeps its place where the same picture has another size, and starts in the middle of a new one.
  place({ width, height }, isNew) {
    const { state, measure } = this;
    const sizes = [height, width];
    let at = state.at ?? sizes.map((n) => Math.floor(n / 2));
    if (state.at && measure && !isNew) {
      const before = [measure.height, measure.width];
      at = at.map((x, i) => Math.floor(((x + 0.5) / before[i]) * sizes[i]));
    }
    state.at = at.map((x, i) => Math.min(x, sizes[i] - 1));
    this.measure = { width, height };
  }

  async attend() {
    const { seen, block } = this;
    this.single = null;
    if (seen === null) return;
    try {
      const which = block && { image: seen.id, stage: block.stage, block: block.block };
      const attention = which && (await this.provider.attention(which));
      if (seen !== this.seen || block !== this.block) return; // overtaken
      this.known = { seen, block, attention };
      this.draw();
    } catch (error) {
      this.controls.showProblem(error.message);
    }
  }

  move([y, x], force) {
    if (this.seen === null || ((this.held || this.state.object !== null) && !force)) return;
    this.choose(null);
    const { width, height } = this.seen;
    const pixel = (share, size) => Math.min(Math.max(Math.floor(share * size), 0), size - 1);
    this.state.at = [pixel(y, height), pixel(x, width)];
    this.drawSoon();
  }

  // By feature pixels.
  step(rows, cols) {
    if (this.seen === null || this.block === null) return;
    this.choose(null);
    const { stride } = this.block;
    const { width, height } = this.seen;
    const [row, col] = this.query();
    const [h, w] = this.seen.grid[this.block.stage];
    const there = [Math.min(Math.max(row + rows, 0), h - 1), Math.min(Math.max(col + cols, 0), w - 1)];
    this.state.at = [Math.min(there[0] * stride, height - 1), Math.min(there[1] * stride, width - 1)];
    this.drawSoon();
  }

  // Asks about an object or class of the answer instead of a pixel; null for the pixel again.
  choose(object) {
    if (object === this.state.object) return;
    this.state.object = object;
    if (object !== null && this.held) this.hold();
    this.controls.showChosen(object);
    this.drawSoon();
  }

  hold() {
    this.held = !this.held;
    this.controls.showHeld(this.held);
  }

  turn(name, by) {
    if (this.block === null) return;
    const next = (list, now) => list[(list.indexOf(now) + by + list.length) % list.length];
    if (name === "block") {
      const { stage, block } = next(this.model.blocks, this.block);
      this.change({ stage, block });
    } else if (name === "head") {
      this.change({ head: next([null, ...Array(this.block.heads).keys()], this.state.head) });
    } else this.change({ part: next(PARTS_IN_TURN, this.state.part) });
  }

  // The feature pixel of the query.
  query() {
    const { stage, stride } = this.block;
    return this.state.at.map((pixel, axis) => nearest(pixel, stride, this.seen.grid[stage][axis]));
  }

  // In the next frame, once.
  drawSoon() {
    if (this.waiting || this.seen === null) return;
    this.waiting = true;
    this.controls.showUnsaid(true);
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  draw() {
    const start = performance.now();
    const { seen, state, block, painter, known } = this;
    if (known?.seen !== seen || known.block !== block) return; // its attention is on its way
    const { objects, map } = seen.answer;
    const answer = { objects: objects ?? null, regions: map?.picture ?? null };
    if (block === null) {
      painter.paint({ heat: null, ...answer });
      this.later("");
      return;
    }
    const found = state.object === null ? this.ofPixel(known) : this.ofObject();
    if (found === null) return;
    const { heat, marks, share, summary } = found;
    painter.paint({ heat, opacity: state.opacity / 100, ...marks, ...answer });
    this.controls.showShare(block.window === null ? null : share);
    this.timings.push(performance.now() - start);
    this.later(summary);
  }

  // What is drawn and said of the query; null where its attention is on its way.
  ofPixel(known) {
    const { seen, state, block } = this;
    const [row, col] = this.query();
    const attention = known.attention ?? this.ofOne(row, col);
    if (attention === null) return null;
    const { weights, heat } = mapOf(attention, row, col, { ...state, ...seen, stride: block.stride });
    const fovea = block.window === null ? null : { row, col, stride: block.stride, window: block.window };
    return { heat, marks: { at: state.at, fovea }, share: shareOf(weights), summary: () => summaryOf(attention, weights, row, col) };
  }

  // The same of the chosen object.
  ofObject() {
    const { seen, state: { object, head, part }, block, region } = this;
    if (region?.seen !== seen || region.block !== block || region.object !== object) {
      this.askRegion({ seen, block, object });
      return null;
    }
    const { found } = region;
    if (found === null) return null;
    const { field, share } = regionOf(found, head, part);
    const heat = heatOf(field, found.grid, block.stride, seen.height, seen.width);
    const marks = { queries: { inside: found.inside, grid: found.grid, stride: block.stride } };
    return { heat, marks, share, summary: () => summaryOfRegion(this.controls.nameOf(object), found, field, share) };
  }

  async askRegion(which) {
    const region = (this.region = { ...which, found: null }); // `found` is null as long as it is on its way
    const { seen, block, object } = which;
    try {
      region.found = await this.provider.region({ image: seen.id, stage: block.stage, block: block.block, object });
      if (region === this.region) this.drawSoon();
    } catch (error) {
      this.controls.showProblem(error.message);
    }
  }

  // The attention of one query, where all are too much; asked for if it is not here, the last wish first.
  ofOne(row, col) {
    if (this.single && this.single.row === row && this.single.col === col) return this.single;
    this.wanted = [row, col];
    if (!this.asking) this.ask();
    return null;
  }

  async ask() {
    const { seen, block } = this;
    const [y, x] = this.wanted;
    this.asking = true;
    try {
      const found = await this.provider.query({ image: seen.id, stage: block.stage, block: block.block, y, x });
      if (seen === this.seen && block === this.block) this.single = { ...found, single: true, row: y, col: x };
    } catch (error) {
      this.controls.showProblem(error.message);
      return;
    } finally {
      this.asking = false;
    }
    this.drawSoon();
  }

  // What need not be in the same frame.
  later(summary) {
    clearTimeout(this.timer);
    this.controls.showUnsaid(true);
    this.timer = setTimeout(() => {
      this.controls.showSummary(typeof summary === "function" ? summary() : summary);
      this.write();
      this.controls.showUnsaid(false);
    }, PAUSE);
  }

  write() {
    history.replaceState(null, "", format(this.state));
  }

  async copy() {
    this.write();
    const own = this.examples.every(({ name }) => name !== this.state.image);
    const hint = own ? " The image itself is not in it." : "";
    try {
      await navigator.clipboard.writeText(location.href);
      return `Copied.${hint}`;
    } catch {
      return `Copy the address of this page.${hint}`;
    }
  }

  async save() {
    if (this.seen === null) return "There is no picture yet.";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await new Promise((done) => this.painter.canvas.toBlob(done)));
    link.download = "looks.png";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    return "Saved.";
  }
}

const NO_BLOCK = { heads: 0, window: null };

async function blobOf({ name, type, data, url }) {
  if (data === undefined) return (await fetch(url)).blob();
  return new File([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], name, { type });
}
