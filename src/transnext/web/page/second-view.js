// A second page within this one, which shows the same picture and the same place, and may have another model, size, mode,
// block, head or part.

import { built } from "./tabs.js";

const PANE = "pane"; // in the search of the address of a page that is shown within another
const OWN = ["model", "size", "mode", "stage", "block", "head", "part", "opacity"]; // of the second view itself

export const isPane = new URLSearchParams(location.search).has(PANE);

// The panel, and `show(open)`, which makes the second view when it is opened first.
export function secondView(explorer) {
  const panel = built(["section", { id: "views" }, ["h2", { class: "hidden" }, "Two views"]]);
  let frame = null;
  let other = null;
  let open = false;
  const isOpen = () => open;
  const begin = async () => {
    frame = built(["iframe", { id: "second", title: "Second view", src: `./?${PANE}${secondState(explorer)}` }]);
    panel.append(frame);
    await new Promise((done) => (frame.onload = done));
    while (!frame.contentDocument.body.matches("[data-ready]")) await new Promise((done) => setTimeout(done, 50));
    other = frame.contentWindow.explorer ?? null;
    if (other === null) return; // it says why itself
    new ResizeObserver(() => fit(frame)).observe(frame.contentDocument.body);
    fit(frame);
    for (const [from, to] of [[explorer, other], [other, explorer]]) connect(from, to, isOpen);
    remember(other, explorer);
    other.write();
    await align(explorer, other);
  };
  const show = (now) => {
    if (now === open) return;
    open = now;
    if (open && frame === null) begin();
    else if (open && other !== null) align(explorer, other);
  };
  return { panel, show };
}

// As high as what is in it, so that it has no bar of its own to scroll.
function fit(frame) {
  frame.style.height = `${frame.contentDocument.body.getBoundingClientRect().height}px`;
}

// What a link says of the second view; else it begins with the next model.
function secondState({ models, model, state }) {
  const said = new URLSearchParams(location.hash.slice(1));
  for (const name of ["tab", "second"]) said.delete(name);
  for (const name of state.second === undefined ? ["stage", "block", "head"] : OWN) said.delete(name);
  if (state.second === undefined) said.set("model", models[(models.indexOf(model) + 1) % models.length].id);
  else for (const [name, value] of new URLSearchParams(state.second)) if (OWN.includes(name)) said.set(name, value);
  return `#${said}`;
}

// The link to the first view says what the second one shows.
function remember(other, explorer) {
  const { write } = Object.getPrototypeOf(other);
  other.write = () => {
    write.call(other);
    const said = OWN.filter((name) => (other.state[name] ?? null) !== null).map((name) => [name, other.state[name]]);
    explorer.state.second = String(new URLSearchParams(said));
    explorer.write();
  };
}

const pictureOf = ({ state: { image, name } }) => ({ image, name, at: undefined, object: null });
const placeOf = ({ state: { at }, seen }) => [(at[0] + 0.5) / seen.height, (at[1] + 0.5) / seen.width];

// The second view takes picture and place of the first.
async function align(explorer, other) {
  if (explorer.seen === null) return;
  const { look } = Object.getPrototypeOf(other);
  if (explorer.file !== other.file) await look.call(other, explorer.file, pictureOf(explorer));
  pointAt(other, placeOf(explorer));
}

// Without a word to the one who said it.
function pointAt(explorer, place) {
  Object.getPrototypeOf(explorer).move.call(explorer, place, true);
}

function connect(from, to, isOpen) {
  for (const name of ["move", "step"]) {
    const before = Object.getPrototypeOf(from)[name];
    from[name] = (...args) => {
      before.apply(from, args);
      if (isOpen() && from.seen && to.seen && !(name === "move" && from.held && !args[1])) pointAt(to, placeOf(from));
    };
  }
  const { look } = Object.getPrototypeOf(from);
  from.look = async (file = from.file, part = {}) => {
    const isNew = file !== from.file;
    await look.call(from, file, part);
    if (isOpen() && isNew && from.file === file) await look.call(to, file, pictureOf(from));
  };
}
