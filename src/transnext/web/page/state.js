// What is shown, in the fragment of the address: who opens the address sees the same.

const PARTS = ["both", "local", "pool"];
const TABS = ["answer", "field", "views", "figures"];
const NUMBERS = { size: [1, 16384], stage: [0, 99], block: [0, 999], head: [0, 999], opacity: [0, 100], object: [0, 9999] };

// {image, name, model, size, mode, stage, block, head, part, at: [y, x], opacity, tab, object} as far as the fragment says them;
// what it says wrongly is left out. `head` is null for the mean over all, `object` the place in the answer of the object
// or class that is asked about instead of a pixel, null for none. `second` is the state of a second view,
// which a link says where both are shown.
export function parse(fragment) {
  const said = new URLSearchParams(fragment.replace(/^#/, ""));
  const state = {};
  for (const name of ["image", "name", "model", "mode"]) if (said.get(name)) state[name] = said.get(name);
  for (const [name, [low, high]] of Object.entries(NUMBERS)) {
    const value = said.get(name);
    if (value !== null && /^\d+$/.test(value) && +value >= low && +value <= high) state[name] = +value;
  }
  if (said.get("head") === "mean") state.head = null;
  if (PARTS.includes(said.get("part"))) state.part = said.get("part");
  if (TABS.includes(said.get("tab"))) state.tab = said.get("tab");
  if (said.get("second")) state.second = said.get("second");
  const at = (said.get("at") ?? "").match(/^(\d{1,5}),(\d{1,5})$/);
  if (at) state.at = [+at[1], +at[2]];
  return state;
}

export function format(state) {
  const said = new URLSearchParams();
  for (const name of ["image", "name", "model", "mode", ...Object.keys(NUMBERS), "part", "tab", "second"]) {
    const value = name === "head" && state.head === null ? "mean" : state[name];
    if (value !== undefined && value !== null && value !== "") said.set(name, value);
  }
  if (state.at) said.set("at", state.at.join(","));
  if (state.tab !== "views") said.delete("second");
  return `#${said.toString().replaceAll("%2C", ",")}`;
}

// A short name of the bytes of a file, by which a link knows the picture it was made with; no security lies in it.
export async function fingerprintOf(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let a = 0x811c9dc5;
  let b = 0x9e3779b9 ^ bytes.length;
  for (let i = 0; i < bytes.length; i++) {
    a = Math.imul(a ^ bytes[i], 0x01000193);
    b = Math.imul(b ^ bytes[i], 0x85ebca6b) ^ (b >>> 13);
  }
  return [a, b].map((x) => (x >>> 0).toString(16).padStart(8, "0")).join("");
}
