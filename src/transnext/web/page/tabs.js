// Tabs: one of them is in the order of the tab key, arrows, Home and End go to the others and show them (the pattern of
// WAI-ARIA), and elements from lists.

// Elements of HTML from [tag, attributes, ...children]; attributes with "on" are handlers.
export function built([tag, attributes, ...children]) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.map((child) => (Array.isArray(child) ? built(child) : child)));
  return element;
}

export class Tabs {
  // `tabs` are {id, title, panel}, panels elements with an id; `choose(id)` is called when a user takes another one.
  constructor(label, tabs, choose) {
    this.choose = choose;
    this.panels = new Map(tabs.map(({ id, panel }) => [id, panel]));
    this.buttons = new Map(tabs.map(({ id, title, panel }) => [id, this.button(id, title, panel)]));
    this.list = built(["div", { class: "tabs", role: "tablist", "aria-label": label }]);
    this.list.append(...this.buttons.values());
    this.list.addEventListener("keydown", (event) => this.press(event));
  }

  button(id, title, panel) {
    const attributes = { id: `tab-${id}`, type: "button", role: "tab", "aria-controls": panel.id };
    panel.setAttribute("role", "tabpanel");
    panel.setAttribute("aria-labelledby", attributes.id);
    panel.tabIndex = 0; // its text can be read and scrolled where nothing in it takes the focus
    return built(["button", { ...attributes, onclick: () => this.choose(id) }, title]);
  }

  press(event) {
    const ids = [...this.buttons.keys()];
    const at = ids.findIndex((id) => this.buttons.get(id) === document.activeElement);
    const places = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: ids.length - 1 };
    if (at < 0 || !(event.key in places) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const id = ids[(places[event.key] + ids.length) % ids.length];
    this.buttons.get(id).focus();
    this.choose(id);
  }

  rename(id, title) {
    this.buttons.get(id).textContent = title;
  }

  show(chosen) {
    for (const [id, button] of this.buttons) {
      button.setAttribute("aria-selected", String(id === chosen));
      button.tabIndex = id === chosen ? 0 : -1;
      this.panels.get(id).hidden = id !== chosen;
    }
  }
}
