// Elements, and how a page comes to show a new state: the tree that a view returns is laid over the one that is there, so
// that what did not change stays as it is, with its focus, its selection and what was typed into it.

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "path", "line", "circle", "rect", "g", "title", "text"]);
const STATE = new Set(["value", "checked", "open", "selected"]); // of the person who looks: only set when an element is made

// An element. Text only ever goes in as text, so nothing that a job or an agent is called can become markup.
// `onclick` and the like are handlers; `style` an object; `key` names a child among its siblings.
export function h(tag, attributes = {}, ...children) {
  const node = SVG_TAGS.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  node.handlers = {};
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) handle(node, name.slice(2), value);
    else if (name === "key") node.key = value;
    else if (name === "style") Object.entries(value).forEach(([property, text]) => node.style.setProperty(property, text));
    else if (name === "value") node.initial = value;
    else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  if (node.initial !== undefined) node.value = node.initial; // of a select, once its options are there
  return node;
}

function handle(node, type, handler) {
  if (!handler) return;
  node.handlers[type] = handler;
  node.addEventListener(type, (event) => node.handlers[type]?.(event));
}

// A part that draws itself, such as a chart: `create(element, props)` returns { update(props), destroy() }.
export function component(key, create, props) {
  const node = h("div", { key });
  node.drawn = { create, props };
  return node;
}

// Shows the children in `root` in place of those that are there.
export function show(root, ...children) {
  lay(root, h("div", {}, ...children));
  mount(root);
}

function mount(node) {
  if (node.drawn && !node.drawn.made) node.drawn.made = node.drawn.create(node, node.drawn.props);
  for (const child of node.children) mount(child);
}

function dismount(node) {
  node.drawn?.made?.destroy?.();
  for (const child of node.children ?? []) dismount(child);
}

function alike(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) return false;
  return old.key === fresh.key && Boolean(old.drawn) === Boolean(fresh.drawn) && old.drawn?.create === fresh.drawn?.create;
}

function lay(old, fresh) {
  const keyed = new Map([...old.childNodes].filter((child) => child.key != null).map((child) => [child.key, child]));
  let place = old.firstChild;
  for (const wanted of [...fresh.childNodes]) {
    let found = wanted.key != null ? keyed.get(wanted.key) : place;
    if (found && !(wanted.key != null ? alike(found, wanted) : found.key == null && alike(found, wanted))) found = null;
    if (!found) {
      old.insertBefore(wanted, place);
    } else {
      if (found === place) place = place.nextSibling;
      else old.insertBefore(found, place);
      patch(found, wanted);
    }
  }
  while (place) {
    const next = place.nextSibling;
    dismount(place);
    place.remove();
    place = next;
  }
}

function patch(old, fresh) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  if (old.drawn) {
    old.drawn.made.update(fresh.drawn.props);
    return;
  }
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && !STATE.has(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) {
    if (STATE.has(name) || old.getAttribute(name) === value) continue;
    if (name === "style") old.style.cssText = value; // as an attribute the page's policy would refuse it
    else old.setAttribute(name, value);
  }
  for (const type of Object.keys(fresh.handlers)) if (!(type in old.handlers)) handle(old, type, fresh.handlers[type]);
  old.handlers = fresh.handlers;
  if (fresh.initial !== undefined && fresh.initial !== old.initial) {
    old.initial = fresh.initial;
    if (document.activeElement !== old && old.value !== String(fresh.initial)) old.value = fresh.initial; // not while one types
  }
  lay(old, fresh);
}

// Asks in a dialog of the page; what it resolves to says whether the answer was yes.
export function confirmed(question, yes) {
  const answer = (value) => () => dialog.close(value);
  const dialog = h("dialog", { class: "card", "aria-labelledby": "question" },
    h("p", { id: "question" }, question),
    h("div", { class: "actions" }, h("button", { class: "danger", onclick: answer("yes") }, yes),
      h("button", { autofocus: true, onclick: answer("") }, "Leave it")));
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => {
    resolve(dialog.returnValue === "yes");
    dialog.remove();
  }));
}
