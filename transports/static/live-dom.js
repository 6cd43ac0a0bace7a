// Elements and their texts. Whatever comes from a server goes through `textContent`, never through markup.

export const find = (id) => document.getElementById(id);

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Writes only what changed: a selection stays, and a live region does not repeat itself. */
export function say(element, text) {
  const wanted = String(text);
  if (element.textContent !== wanted) element.textContent = wanted;
}

export function title(element, text) {
  if (element.title !== text) element.title = text;
}

/** Makes the rows of a table (or items of a list) those of `things`, in their order; a row that stays is the same. */
export function arrange(parent, things, keyOf, create, update) {
  const wanted = new Map(things.map((thing) => [String(keyOf(thing)), thing]));
  const rows = new Map();
  for (const row of [...parent.children]) {
    if (wanted.has(row.dataset.key)) rows.set(row.dataset.key, row);
    else row.remove(); // first, so that those that stay need not be moved: who is moved loses the focus
  }
  let at = parent.firstElementChild;
  for (const [key, thing] of wanted) {
    let row = rows.get(key);
    if (!row) {
      row = create(thing);
      row.dataset.key = key;
    }
    if (row === at) at = at.nextElementSibling;
    else parent.insertBefore(row, at);
    update(row, thing);
  }
}

/** The things in the order of their rows as long as somebody points into them: nothing slips away under a finger. */
export function steady(parent, things, keyOf) {
  if (!parent.matches(":hover, :focus-within")) return things;
  const places = new Map([...parent.children].map((row, place) => [row.dataset.key, place]));
  const place = (thing) => places.get(String(keyOf(thing))) ?? places.size;
  return [...things].sort((a, b) => place(a) - place(b));
}

/** An element that has grown does not shrink again: what is below it stays where it is. */
export function hold(element) {
  const height = `${element.offsetHeight}px`;
  if (element.style.minHeight !== height) element.style.minHeight = height;
}

/** Calls `draw` at most once a frame, however often it is wanted. */
export function eachFrame(draw) {
  let wanted = false;
  return () => {
    if (wanted) return;
    wanted = true;
    requestAnimationFrame(() => {
      wanted = false;
      draw();
    });
  };
}
