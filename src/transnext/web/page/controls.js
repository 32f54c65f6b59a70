// The fields and the text around the picture: what they say, and what a user does with them.

import { percent } from "./attention.js";
import { colourOf } from "./draw.js";

const element = (id) => document.getElementById(id);
const REST = 150; // ms that the slider of sizes rests before the picture is looked at anew

// Calls `change({name: value})` for everything that a user chooses, and `take(file)` for images.
export class Controls {
  constructor({ change, take }) {
    this.canvas = element("canvas");
    const number = (name) => () => change({ [name]: +element(name).value });
    element("model").onchange = () => change({ model: element("model").value });
    element("mode").onchange = () => change({ mode: element("mode").value });
    element("size").oninput = () => this.showSize();
    element("size").onchange = () => {
      clearTimeout(this.resizing);
      this.showBusy(true);
      const size = +element("size").value; // it may be set back before the pause is over
      this.resizing = setTimeout(() => change({ size }), REST);
    };
    element("opacity").oninput = number("opacity");
    element("block").onchange = () => {
      const [stage, block] = element("block").value.split(".").map(Number);
      change({ stage, block });
    };
    element("head").onchange = () => change({ head: element("head").value === "" ? null : +element("head").value });
    element("part").onchange = (event) => change({ part: event.target.value });
    element("file").onchange = () => {
      if (element("file").files.length) take(element("file").files[0]);
      element("file").value = ""; // the same file may be chosen again
    };
    this.listenForFiles(take);
  }

  listenForFiles(take) {
    let inside = 0; // `dragenter` and `dragleave` come for every element
    const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
    const show = (by) => {
      inside = by === 0 ? 0 : inside + by;
      element("drop").hidden = inside <= 0;
    };
    addEventListener("dragenter", (event) => carriesFiles(event) && show(1));
    addEventListener("dragleave", (event) => carriesFiles(event) && show(-1));
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("drop", (event) => {
      event.preventDefault();
      show(0);
      if (event.dataTransfer?.files.length) take(event.dataTransfer.files[0]);
    });
    addEventListener("paste", (event) => {
      const file = [...(event.clipboardData?.files ?? [])][0];
      if (file) take(file);
    });
  }

  // The pointer and the keys on the picture: `move([row, column] as fractions)`, `step(rows, columns)`, `hold()`, and
  // `turn(name, +1 or -1)` for the next or the previous "block", "head" or "part".
  listenToPicture({ move, step, hold, turn }) {
    const { canvas } = this;
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      move([(event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width], event.type === "pointerdown");
    };
    canvas.addEventListener("pointermove", place);
    canvas.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "mouse") hold();
      place(event);
    });
    const arrows = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const turns = { b: "block", h: "head", p: "part" };
    canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key in arrows) step(...arrows[event.key]);
      else if (event.key === "Enter" || event.key === " ") hold();
      else if (event.key.toLowerCase() in turns) turn(turns[event.key.toLowerCase()], event.shiftKey ? -1 : 1);
      else return;
      event.preventDefault();
    });
  }

  // Fills the lists that depend on the model alone.
  showModels(models, model) {
    options("model", models.map(({ id, name }) => [id, name]), model.id);
    element("model-field").hidden = models.length < 2;
    element("name").textContent = models.length < 2 ? model.name : "a model";
    options("mode", model.modes.map((mode) => [mode, mode]), model.modes[0]);
    element("mode-field").hidden = model.modes.length < 2;
    element("size-field").hidden = model.sizes === null;
    if (model.sizes !== null) {
      const { min, max, step, default: own } = model.sizes;
      Object.assign(element("size"), { min, max, step, value: own });
    }
    const list = element("block");
    list.replaceChildren();
    for (const stage of new Set(model.blocks.map((block) => block.stage))) {
      const group = document.createElement("optgroup");
      group.label = `Stage ${stage + 1}`;
      for (const { block, window, stride } of model.blocks.filter((b) => b.stage === stage)) {
        const kind = window === null ? "global" : `every ${stride} pixels`;
        group.append(new Option(`${stage + 1}.${block + 1}, ${kind}`, `${stage}.${block}`));
      }
      list.append(group);
    }
  }

  // Shows a state; `block` is the chosen one of the model.
  showState(state, block) {
    for (const name of ["model", "mode", "size", "opacity"]) {
      if (state[name] !== undefined) element(name).value = state[name];
    }
    this.showSize();
    element("block").value = `${state.stage}.${state.block}`;
    const heads = Array.from({ length: block.heads }, (_, i) => [String(i), String(i + 1)]);
    options("head", [["", "mean of all"], ...heads], state.head === null ? "" : String(state.head));
    for (const radio of element("part").querySelectorAll("input")) {
      radio.checked = radio.value === state.part;
      radio.disabled = block.window === null && radio.value !== "both";
    }
  }

  // The size that the slider stands at.
  showSize() {
    const { value } = element("size");
    element("size-value").textContent = `${value} pixels`;
    element("size").setAttribute("aria-valuetext", `${value} pixels`);
  }

  // `choose(number)` of the object or class that a user picks in the answer, null where it was picked already.
  listenToAnswer(choose) {
    element("top").addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button === null) return;
      const number = [...element("top").children].indexOf(button.parentElement);
      choose(button.getAttribute("aria-pressed") === "true" ? null : number);
    });
  }

  // How many objects or classes an answer has that are somewhere in the picture.
  regions({ objects, map }) {
    return (objects ?? map?.classes ?? []).length;
  }

  // An answer in rows; those that are somewhere in the picture can be picked if `pick`.
  showAnswer({ top, objects, map }, pick) {
    const rows = top ?? objects ?? map.classes.map(({ name, share, colour }) => ({ name, score: share, colour }));
    const names = objects && [...new Set(objects.map(({ name }) => name))];
    element("top").replaceChildren(
      ...rows.map(({ name, score, colour = names && colourOf(names, name) }) => {
        const row = document.createElement("li");
        const [label, meter, value] = ["span", "meter", "span"].map((tag) => document.createElement(tag));
        label.textContent = name;
        meter.value = score;
        meter.setAttribute("aria-label", name);
        value.textContent = percent(score);
        value.className = "value";
        if (colour) {
          label.className = "swatch";
          label.style.setProperty("--swatch", colour);
        }
        const inner = pick ? document.createElement("button") : row;
        if (pick) {
          inner.type = "button";
          inner.setAttribute("aria-pressed", "false");
          row.append(inner);
        }
        inner.append(label, meter, value);
        return row;
      }),
    );
    element("top").toggleAttribute("data-pick", pick);
    element("none").hidden = rows.length > 0 && !pick;
    const what = objects ? "object" : "class";
    element("none").textContent = rows.length ? `Pick one to see where all of this ${what} looks, on average.` : "Nothing was found.";
  }

  showChosen(object) {
    [...element("top").querySelectorAll("button")].forEach((button, i) => button.setAttribute("aria-pressed", String(i === object)));
  }

  nameOf(object) {
    return element("top").children[object].querySelector("span").textContent;
  }

  showShare(share) {
    element("share").value = share ?? 0;
    element("share-value").textContent = share === null ? "none: global" : percent(share);
  }

  // Examples as buttons; `choose(index)`.
  showExamples(examples, choose) {
    element("examples").hidden = examples.length === 0;
    element("examples").replaceChildren(
      ...examples.map(({ name, url }, index) => {
        const button = document.createElement("button");
        const image = document.createElement("img");
        button.type = "button";
        image.src = url;
        image.alt = name;
        button.append(image);
        button.onclick = () => choose(index);
        return button;
      }),
    );
  }

  markExample(chosen) {
    [...element("examples").children].forEach((button, i) => button.setAttribute("aria-pressed", String(i === chosen)));
  }

  // One line about what went wrong; empty for nothing.
  showProblem(text) {
    element("problem").textContent = text;
  }

  showSummary(text) {
    element("summary").textContent = text;
  }

  showBusy(busy) {
    document.body.toggleAttribute("data-busy", busy);
    this.canvas.setAttribute("aria-busy", String(busy));
  }

  // Whether something is drawn, or will be, that neither the sentence nor the address says yet.
  showUnsaid(unsaid) {
    document.body.toggleAttribute("data-unsaid", unsaid);
  }

  showHeld(held) {
    document.body.toggleAttribute("data-held", held);
  }

  listenToButtons({ copy, save }) {
    const say = (text) => (element("said").textContent = text);
    element("copy").onclick = async () => say(await copy());
    element("save").onclick = async () => say(await save());
  }
}

function options(id, values, chosen) {
  element(id).replaceChildren(...values.map(([value, text]) => new Option(text, value)));
  if (chosen !== undefined) element(id).value = chosen;
}
