// The models on the server that this page came from; `provider-ort.js` says what a provider is asked.

const LARGEST_FILE = 32 * 2 ** 20; // bytes; as `MAX_BODY` of the server
const WAITS = [200, 400, 800, 1600, 3200]; // ms before a request that found the server busy is tried again
const KEPT = 8; // images that can be shown again when the server has forgotten them

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

class ServerProvider {
  constructor() {
    this.images = new Map(); // what the server was asked, by the id that the page knows
    this.next = 0;
    this.running = new Map(); // of each model the question that the next one takes the place of
    this.timings = []; // of `see`, ms
  }

  async models() {
    return (await this.ask("api/models")).json();
  }

  async see(blob, { model, size, mode }) {
    if (blob.size > LARGEST_FILE) {
      throw new Error(`This file has ${Math.ceil(blob.size / 2 ** 20)} MB; the server takes ${LARGEST_FILE / 2 ** 20}.`);
    }
    this.running.get(model)?.abort();
    const abort = new AbortController();
    this.running.set(model, abort);
    const start = performance.now();
    const wish = { blob, model, size, mode };
    const { id: name, ...seen } = await this.put(wish, abort.signal);
    const { map } = seen.answer;
    const [shown, picture] = await Promise.all([this.bitmap(`api/images/${name}/shown`), map && this.bitmap(map.picture)]);
    if (map) map.picture = picture;
    const id = String(this.next++);
    this.images.set(id, { ...wish, name });
    if (this.images.size > KEPT) this.images.delete(this.images.keys().next().value);
    this.timings.push(performance.now() - start);
    return { id, ...seen, shown };
  }

  async attention({ image, stage, block }) {
    return this.softmax(image, "attention", { stage, block });
  }

  async query({ image, stage, block, y, x }) {
    return this.softmax(image, "query", { stage, block, y, x });
  }

  // Mean over all queries in an object or class of the answer, `object` its place there: {heads, grid, pool, window, and
  // Float32Arrays: inside [h * w], 1 for each query; local and pooled [heads * h * w], maps of both parts}.
  async region({ image, stage, block, object }) {
    const where = search({ stage, block, object });
    const response = await this.ofImage(image, (name) => `api/images/${name}/region?${where}`);
    const about = JSON.parse(response.headers.get("X-Attention"));
    const numbers = new Float32Array(await response.arrayBuffer());
    const count = about.grid[0] * about.grid[1];
    const split = (1 + about.heads) * count;
    return { ...about, inside: numbers.subarray(0, count), local: numbers.subarray(count, split), pooled: numbers.subarray(split) };
  }

  // A file of a figure: of the pixel in row y and column x of what was shown, or of an object, or of the receptive field of
  // a model.
  async figure({ image, ...what }) {
    return (await this.ofImage(image, (name) => `api/images/${name}/figure?${search(what)}`)).blob();
  }

  // Numbers of the receptive field of a model, or a file of its figure.
  async receptiveField(what) {
    const response = await this.ask(`api/erf?${search(what)}`);
    return what.format === undefined ? response.json() : response.blob();
  }

  async softmax(image, kind, where) {
    const response = await this.ofImage(image, (name) => `api/images/${name}/${kind}?${search(where)}`);
    if (response.status === 204) return null;
    const about = JSON.parse(response.headers.get("X-Attention"));
    const numbers = new Float32Array(await response.arrayBuffer());
    const { heads, grid, window } = about;
    const queries = kind === "query" ? 1 : grid[0] * grid[1];
    const split = heads * queries * window * window;
    return { ...about, local: numbers.subarray(0, split), pooled: numbers.subarray(split) };
  }

  // Asks about an image, and shows it again if the server has forgotten it.
  async ofImage(id, address) {
    const known = this.images.get(id);
    if (known === undefined) throw new Error("the picture has been replaced by another");
    const { name } = known;
    try {
      return await this.ask(address(name));
    } catch (error) {
      if (error.status !== 404) throw error;
      if (known.name === name) {
        known.again ??= this.put(known).finally(() => delete known.again); // once for all who wait for it
        known.name = (await known.again).id;
      }
      return this.ask(address(known.name));
    }
  }

  async put({ blob, model, size, mode }, signal) {
    return (await this.ask(`api/images?${search({ model, size, mode })}`, { method: "PUT", body: blob, signal })).json();
  }

  async bitmap(address) {
    return createImageBitmap(await (await this.ask(address)).blob(), { colorSpaceConversion: "none" });
  }

  // Sends a request; waits where the server is busy, and begins a new session where it was started anew.
  async ask(address, options = {}) {
    let renewed = false;
    for (let turn = 0; ; ) {
      let response;
      try {
        response = await fetch(address, options);
      } catch (error) {
        if (error.name === "AbortError") throw new Error("overtaken by another picture");
        throw new Error("The server does not answer: is it still running?");
      }
      if (response.ok) return response;
      if (response.status === 503 && turn < WAITS.length) {
        await pause(WAITS[turn++] * (0.75 + Math.random() / 2));
      } else if (response.status === 401 && !renewed) {
        renewed = true;
        await fetch("./");
      } else {
        const said = await response.json().catch(() => ({}));
        throw Object.assign(new Error(said.error ?? `the server said ${response.status}`), { status: response.status });
      }
    }
  }
}

// What is asked for, without what is left open.
function search(what) {
  return new URLSearchParams(Object.entries(what).filter(([, value]) => value !== undefined && value !== null));
}

export async function open() {
  return new ServerProvider();
}
