// What the page has only where a server is behind it, in tabs: the answer, receptive fields, a second view, figures to keep.

import { isPane, secondView } from "./second-view.js";
import { built, Tabs } from "./tabs.js";

const TITLES = { classification: "Answer", detection: "Detection", segmentation: "Segmentation" };
const PAUSE = 300; // ms that a tab is open, or a slider rests, before something is measured

export function addTabs(explorer) {
  document.body.classList.toggle("pane", isPane);
  if (isPane) return;
  const answer = document.getElementById("answer");
  const views = secondView(explorer);
  const panels = { answer, field: fieldPanel(), views: views.panel, figures: figuresPanel(explorer) };
  const titles = { answer: "Answer", field: "Receptive field", views: "Two views", figures: "Figures" };
  const tabs = new Tabs(
    "What is shown beside the picture",
    Object.entries(panels).map(([id, panel]) => ({ id, title: titles[id], panel })),
    (tab) => explorer.change({ tab }),
  );
  const card = built(["div", { id: "tabs", class: "card" }]);
  answer.before(card);
  card.append(tabs.list, ...Object.values(panels), built(["p", { id: "tabs-problem", class: "problem", role: "alert" }]));
  const show = () => {
    const tab = explorer.state.tab ?? "answer";
    tabs.rename("answer", TITLES[explorer.model.task] ?? "Answer");
    tabs.show(tab);
    document.body.dataset.tab = tab;
    views.show(tab === "views");
    showField(explorer, tab === "field");
  };
  explorer.addEventListener("state", show);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show); // figures have the page's colours
  show();
}

function panel(id, title, ...children) {
  return built(["section", { id }, ["h2", { class: "hidden" }, title], ...children]);
}

// A button whose mistakes are said.
function button(id, label, text, act) {
  const problem = () => document.getElementById("tabs-problem");
  const onclick = async (event) => {
    const { target } = event;
    target.disabled = true;
    problem().textContent = "";
    try {
      await act();
    } catch (error) {
      problem().textContent = error.message;
    } finally {
      target.disabled = false;
      target.focus(); // which a disabled button loses
    }
  };
  return ["button", { id, type: "button", "aria-label": label, onclick }, text];
}

// Buttons that make a file of a figure in each format: `make(format)` gives a Blob.
function keepButtons(id, title, name, make) {
  return ["png", "svg"].map((format) =>
    button(`${id}-${format}`, `${title}, ${format.toUpperCase()}`, format.toUpperCase(), async () => {
      keep(await make(format), `${name}.${format}`);
    }),
  );
}

function keep(blob, name) {
  const url = URL.createObjectURL(blob);
  built(["a", { href: url, download: name }]).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

function figuresPanel(explorer) {
  const looks = keepButtons("figure", "Attention in all its parts", "looks", (format) => {
    const { seen, block, state } = explorer;
    if (seen === null || block === null) throw new Error("There is no attention to draw.");
    const [y, x] = state.at;
    return explorer.provider.figure({ image: seen.id, stage: block.stage, block: block.block, y, x, head: state.head, object: state.object, format });
  });
  const field = keepButtons("field-figure", "Effective receptive field", "receptive_field", (format) =>
    explorer.provider.receptiveField({ ...fieldOf(explorer), format }),
  );
  const canvas = button("canvas-png", "Picture under its map as it is drawn, PNG", "PNG", () => explorer.save());
  const rows = [
    ["Picture under its map as it is drawn", [canvas]],
    ["Attention in all its parts", looks],
    ["Effective receptive field of the model", field],
  ];
  return panel(
    "figures", "Figures",
    ["ul", { class: "plain" }, ...rows.map(([text, buttons]) => ["li", { class: "row" }, ["span", {}, text], ...buttons])],
    ["p", { class: "soft" }, "Of the picture, block, head, and pixel or object that are shown."],
  );
}

const fieldOf = ({ state: { model, size, mode } }) => ({ model, size, mode });

function fieldPanel() {
  return panel(
    "field", "Effective receptive field",
    ["p", { class: "soft" }, "What the middle of the last feature map depends on, mean over eight drawings."],
    ["p", { id: "field-said", role: "status" }],
    ["img", { id: "field-figure", alt: "", hidden: "" }],
  );
}

// Of the page, as figures are told of them: hexadecimal digits.
function pageColours() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(["text", "card"].map((name) => [name, style.getPropertyValue(`--${name}`).trim().slice(1)]));
}

// Measured when its tab has been open for a moment, for the model, size and mode that are chosen then.
function showField(explorer, open) {
  clearTimeout(showField.timer);
  if (!open) return;
  const which = fieldOf(explorer);
  const [said, figure] = ["field-said", "field-figure"].map((id) => document.getElementById(id));
  const colours = pageColours();
  const key = JSON.stringify([which, colours]);
  if (showField.key === key) return;
  showField.key = key;
  said.textContent = "Measuring …";
  figure.hidden = true;
  showField.timer = setTimeout(async () => {
    try {
      const [numbers, file] = await Promise.all([
        explorer.provider.receptiveField(which),
        explorer.provider.receptiveField({ ...which, ...colours, format: "png" }),
      ]);
      if (showField.key !== key) return; // overtaken
      const { caption, half, most, stride, artefact } = numbers;
      const trace = artefact === null ? `too small for an artefact at stride ${stride}` : `artefact ${artefact.toFixed(2)} at stride ${stride}`;
      said.textContent = `${caption}: half of it in ${half} pixels, 95 % in ${most}; ${trace}.`;
      URL.revokeObjectURL(figure.src);
      figure.src = URL.createObjectURL(file);
      figure.alt = said.textContent;
      figure.hidden = false;
    } catch (error) {
      if (showField.key !== key) return;
      said.textContent = error.message;
      showField.key = null; // tried again when the tab is opened again
    }
  }, PAUSE);
}
