// What the page has only where a server is behind it: figures to keep, receptive fields, a second model beside the first,
// and the attention of an object that was found.

const PANE = "pane"; // in the search of the address of a page that is shown within another

// Elements of HTML from [tag, attributes, ...children]; attributes with "on" are handlers.
function built([tag, attributes, ...children]) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.map((child) => (Array.isArray(child) ? built(child) : child)));
  return element;
}

function keep(blob, name) {
  const url = URL.createObjectURL(blob);
  built(["a", { href: url, download: name }]).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

export function addTools(explorer) {
  const isPane = new URLSearchParams(location.search).has(PANE);
  document.body.classList.toggle("pane", isPane);
  askAboutObjects(explorer);
  const section = built([
    "section",
    { id: "tools", "aria-labelledby": "tools-title" },
    ["h2", { id: "tools-title" }, "More"],
    ["div", { class: "row", role: "group", "aria-label": "Figure of this pixel" }, "Figure of this pixel:", ...figureButtons(explorer)],
    ["details", { id: "field", ontoggle: (event) => showField(explorer, event.target) },
      ["summary", {}, "Effective receptive field"],
      ["p", { id: "field-said", class: "soft", role: "status" }],
      ["img", { id: "field-figure", alt: "", hidden: "" }],
      ["div", { class: "row" }, ...["png", "svg"].map((format) => fieldButton(explorer, format))]],
    ["p", { id: "tools-problem", class: "problem", role: "alert" }],
  ]);
  if (!isPane) section.querySelector("#field").before(built(["div", { class: "row" }, compareButton(explorer)]));
  document.querySelector(".side").append(section);
}

// A button whose mistakes are said.
function button(id, text, act) {
  const problem = () => document.getElementById("tools-problem");
  const onclick = async (event) => {
    const { target } = event;
    target.disabled = true;
    problem().textContent = "";
    try {
      await act(target);
    } catch (error) {
      problem().textContent = error.message;
    } finally {
      target.disabled = false;
    }
  };
  return ["button", { id, type: "button", onclick }, text];
}

function figureButtons(explorer) {
  return ["png", "svg"].map((format) =>
    button(`figure-${format}`, format.toUpperCase(), async () => {
      const { seen, block, state } = explorer;
      if (seen === null || block === null) throw new Error("There is no attention to draw.");
      const [y, x] = state.at;
      const which = { image: seen.id, stage: block.stage, block: block.block, y, x, head: state.head, format };
      keep(await explorer.provider.figure(which), `looks.${format}`);
    }),
  );
}

const fieldOf = ({ state: { model, size, mode } }) => ({ model, size, mode });

function fieldButton(explorer, format) {
  return button(`field-${format}`, format.toUpperCase(), async () => {
    keep(await explorer.provider.receptiveField({ ...fieldOf(explorer), format }), `receptive_field.${format}`);
  });
}

// Measured when it is opened; closed and opened again for another model, size or mode.
async function showField(explorer, details) {
  if (!details.open) return;
  const [said, figure] = ["field-said", "field-figure"].map((id) => document.getElementById(id));
  const which = fieldOf(explorer);
  said.textContent = "Measuring …";
  figure.hidden = true;
  try {
    const { caption, half, most, stride, artefact } = await explorer.provider.receptiveField(which);
    const trace = artefact === null ? `too small for an artefact at stride ${stride}` : `artefact ${artefact.toFixed(2)} at stride ${stride}`;
    said.textContent = `${caption}: half of it in ${half} pixels, 95 % in ${most}; ${trace}.`;
    if (artefact === null) return;
    URL.revokeObjectURL(figure.src);
    figure.src = URL.createObjectURL(await explorer.provider.receptiveField({ ...which, format: "png" }));
    figure.alt = said.textContent;
    figure.hidden = false;
  } catch (error) {
    said.textContent = error.message;
  }
}

// A second page beside this one, which shows the same picture and the same place, and may have another model, size, mode,
// block, head or part.
function compareButton(explorer) {
  return button("compare", "Compare with a second view", (target) => {
    const shown = document.getElementById("second");
    if (shown) {
      shown.remove();
      target.textContent = "Compare with a second view";
      return;
    }
    const frame = built(["iframe", { id: "second", title: "Second view", src: `./?${PANE}${secondState(explorer)}` }]);
    frame.onload = () => follow(explorer, frame);
    document.querySelector("main").after(frame);
    target.textContent = "Close the second view";
  });
}

// The second view begins with the next model.
function secondState(explorer) {
  const said = new URLSearchParams(location.hash.slice(1));
  const { models, model } = explorer;
  said.set("model", models[(models.indexOf(model) + 1) % models.length].id);
  for (const name of ["stage", "block", "head"]) said.delete(name);
  return `#${said}`;
}

async function follow(explorer, frame) {
  while (!frame.contentDocument?.body?.matches("[data-ready]")) await new Promise((done) => setTimeout(done, 50));
  const other = frame.contentWindow.explorer;
  if (other === undefined) return;
  const alive = () => frame.isConnected;
  if (explorer.file !== null) await other.look(explorer.file, pictureOf(explorer));
  for (const [from, to] of [[explorer, other], [other, explorer]]) connect(from, to, alive);
  pointAt(other, placeOf(explorer));
}

const pictureOf = ({ state: { image, name } }) => ({ image, name, at: undefined });
const placeOf = ({ state: { at }, seen }) => [(at[0] + 0.5) / seen.height, (at[1] + 0.5) / seen.width];

// Without a word to the one who said it.
function pointAt(explorer, place) {
  Object.getPrototypeOf(explorer).move.call(explorer, place, true);
}

function connect(from, to, alive) {
  for (const name of ["move", "step"]) {
    const before = Object.getPrototypeOf(from)[name];
    from[name] = (...args) => {
      before.apply(from, args);
      if (alive() && from.seen && to.seen && !(name === "move" && from.held && !args[1])) pointAt(to, placeOf(from));
    };
  }
  const { look } = Object.getPrototypeOf(from);
  from.look = async (file = from.file, part = {}) => {
    const isNew = file !== from.file;
    await look.call(from, file, part);
    if (alive() && isNew && from.file === file) await look.call(to, file, pictureOf(from));
  };
}

// A click on the name of an object holds the query at the middle of it.
function askAboutObjects(explorer) {
  const list = document.getElementById("top");
  const objectOf = (event) => {
    const row = event.target.closest("li");
    return row && explorer.seen?.answer.objects?.[[...list.children].indexOf(row)];
  };
  const point = (event) => {
    const object = objectOf(event);
    if (!object) return;
    const { width, height } = explorer.seen;
    const [x0, y0, x1, y1] = object.box;
    explorer.move([(y0 + y1) / 2 / height, (x0 + x1) / 2 / width], true);
    if (!explorer.held) explorer.hold();
  };
  const mark = () => {
    const objects = explorer.seen?.answer.objects;
    for (const row of objects ? list.children : []) {
      row.tabIndex = 0;
      row.setAttribute("role", "button");
      row.title = "Where the middle of this object looks";
    }
    list.toggleAttribute("data-objects", Boolean(objects));
  };
  list.addEventListener("click", point);
  list.addEventListener("keydown", (event) => {
    if (event.key === "Enter") point(event);
  });
  new MutationObserver(mark).observe(list, { childList: true });
  mark();
}
