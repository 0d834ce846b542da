// A table of numbers as colours, with the number under the pointer, or under the arrow keys, in words.

import { h, show } from "./dom.js";

// Dark to light in steps that differ in brightness, so that they do without hue (after Smith and van der Walt's viridis).
const STOPS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
const LABEL = 150, ROW = 18, FOOT = 20, NARROWEST = 480;

export function shade(share) {
  const at = Math.min(1, Math.max(0, share)) * (STOPS.length - 1), low = Math.min(STOPS.length - 2, Math.floor(at));
  return `rgb(${STOPS[low].map((part, i) => Math.round(part + (STOPS[low + 1][i] - part) * (at - low))).join(" ")})`;
}

// props: { label, rows, columns, values, format, most (of the scale; null: the largest value), across }
export function heatmap(element, props) {
  return new HeatMap(element, props);
}

class HeatMap {
  constructor(element, props) {
    this.element = element;
    element.classList.add("heatmap");
    this.at = null;
    this.told = h("div", { class: "told", role: "status" });
    this.drawn = h("div", { tabindex: 0, role: "application", class: "plot scroll", onkeydown: (event) => this.#key(event), onmousemove: (event) => this.#point(event), onmouseleave: () => this.#tell(null), onblur: () => this.#tell(null) });
    this.scale = h("div", { class: "scale" });
    element.replaceChildren(this.drawn, this.told, this.scale);
    this.update(props);
  }

  update(props) {
    if (JSON.stringify(props) === this.key) return;
    this.key = JSON.stringify(props);
    this.props = props;
    const { rows, columns, values, label, format } = props;
    const room = Math.max(NARROWEST, this.drawn.clientWidth || NARROWEST);
    const wide = Math.min(60, Math.max(9, (room - LABEL) / columns.length)), width = LABEL + wide * columns.length;
    this.most = props.most ?? Math.max(1e-9, ...values.flat().filter((value) => value != null));
    const cells = rows.flatMap((_, r) => columns.map((__, c) => {
      const box = h("rect", { x: LABEL + wide * c, y: ROW * r, width: wide - 1, height: ROW - 1, "data-at": `${r} ${c}` });
      box.style.fill = values[r][c] == null ? "var(--line)" : shade(values[r][c] / this.most);
      return box;
    }));
    const text = (x, y, anchor, words) => h("text", { x, y, "text-anchor": anchor }, words);
    const every = Math.ceil(30 / wide);
    const cut = (name) => (name.length > 21 ? `…${name.slice(-20)}` : name);
    const frame = h("rect", { class: "frame", width: wide - 1, height: ROW - 1, visibility: "hidden" });
    this.frame = frame;
    this.wide = wide;
    const height = ROW * rows.length + FOOT;
    this.drawn.setAttribute("aria-label", `${label}: ${rows.length} rows, ${columns.length} columns. The arrow keys go from cell to cell.`);
    this.drawn.replaceChildren(h("svg", { viewBox: `0 0 ${width} ${height}`, width, height }, cells, frame,
      rows.map((name, r) => text(LABEL - 8, ROW * r + 13, "end", cut(name))),
      columns.map((name, c) => (c % every ? null : text(LABEL + wide * (c + 0.5), ROW * rows.length + 14, "middle", props.across === "layer" ? shortLayer(name) : name)))));
    const steps = Array.from({ length: 24 }, (_, i) => h("i", { style: { background: shade(i / 23) } }));
    show(this.scale, h("span", {}, format(0)), h("span", { class: "ramp", "aria-hidden": "true" }, steps), h("span", {}, format(this.most)));
    this.#tell(this.at);
  }

  destroy() {}

  #point(event) {
    const at = event.target.dataset?.at;
    if (at) this.#tell(at.split(" ").map(Number));
  }

  #key(event) {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!step) return;
    event.preventDefault();
    const { rows, columns } = this.props, [r, c] = this.at ?? [0, columns.length - 1];
    const moved = this.at ? [r + step[0], c + step[1]] : [r, c];
    this.#tell([Math.min(rows.length - 1, Math.max(0, moved[0])), Math.min(columns.length - 1, Math.max(0, moved[1]))]);
  }

  #tell(at) {
    const { rows, columns, values, format, label, across } = this.props;
    this.at = at;
    this.frame.setAttribute("visibility", at ? "visible" : "hidden");
    if (!at || at[0] >= rows.length || at[1] >= columns.length) return show(this.told, h("span", { class: "dim" }, label));
    const [r, c] = at;
    set(this.frame, { x: LABEL + this.wide * c, y: ROW * r });
    return show(this.told, h("span", { class: "item" }, `${rows[r]}, ${across} ${columns[c]}: `, h("b", {}, values[r][c] == null ? "no value" : format(values[r][c]))));
  }
}

const shortLayer = (name) => /\d+$/.exec(name)?.[0] ?? name.split(".").at(-1).slice(0, 8);

function set(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
}
