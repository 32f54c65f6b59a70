// A click on the name of an object holds the query at the middle of it.
export function askAboutObjects(explorer) {
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
