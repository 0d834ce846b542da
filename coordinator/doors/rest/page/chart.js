// Lines over an axis, drawn by uPlot: hover, isolate, search, and the same by keyboard.

import { h, show } from "./dom.js";

const { uPlot } = window;
export const COLOURS = 7; // of the palette: --c0 to --c6 in style.css
const DASHES = [[], [9, 4], [2, 3], [12, 3, 2, 3], [5, 2]]; // each colour comes with each of them
const HEIGHT = 280;
const SEARCHED_FROM = 9; // lines
const CROWD = 12;

const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// How line `index` among its kind looks, so that no two of thirty-five look alike.
export const look = (index) => ({ colour: `--c${index % COLOURS}`, dash: DASHES[Math.floor(index / COLOURS) % DASHES.length] });

// A line as it looks in the chart, for legends.
export function swatch({ colour, dash, main }) {
  const line = h("line", { x1: 1, x2: 25, y1: 5, y2: 5, "stroke-width": main ? 4 : 2.5, "stroke-dasharray": dash.join(" ") || null });
  line.style.stroke = `var(${colour})`;
  return h("svg", { class: "swatch", viewBox: "0 0 26 10", width: 26, height: 10, "aria-hidden": "true" }, line);
}

// Lines over one common axis, as uPlot wants them.
function aligned(lines) {
  const places = [...new Set(lines.flatMap((line) => line.points.map((point) => point[0])))].sort((a, b) => a - b);
  return [places, ...lines.map((line) => {
    const values = new Map(line.points);
    return places.map((place) => values.get(place) ?? null);
  })];
}

// props: { label, lines: [{ name, points, main }], format, axis: { label, format } }
export function chart(element, props) {
  return new Chart(element, props);
}

class Chart {
  constructor(element, props) {
    this.element = element;
    element.classList.add("chart");
    this.plotted = h("div", { class: "plot", tabindex: 0, role: "application", onkeydown: (event) => this.#key(event), onblur: () => this.#at(null) });
    this.told = h("div", { class: "told", role: "status" });
    this.legend = h("div", { class: "legend" });
    element.replaceChildren(this.plotted, this.told, this.legend);
    this.only = new Set(); // names of lines that are isolated
    this.search = "";
    this.sized = new ResizeObserver(([entry]) => this.plot?.setSize({ width: entry.contentRect.width, height: HEIGHT }));
    this.sized.observe(this.plotted);
    this.repaint = () => this.#draw();
    dark.addEventListener("change", this.repaint);
    this.update(props);
  }

  update(props) {
    const same = this.props && this.props.label === props.label && this.props.axis.label === props.axis.label && String(this.props.lines.map((line) => line.name)) === String(props.lines.map((line) => line.name));
    const moved = !same || JSON.stringify(this.props.lines) !== JSON.stringify(props.lines);
    this.props = props;
    let place = 0;
    this.looks = props.lines.map((line) => (line.main ? { colour: "--text", dash: [], main: true } : look(place++)));
    if (!same) this.#draw();
    else if (moved) {
      this.plot.setData(aligned(props.lines));
      requestAnimationFrame(() => this.plot.redraw(false)); // uPlot does not draw a focus that moves with the data
    }
    this.#legend();
  }

  destroy() {
    this.sized.disconnect();
    dark.removeEventListener("change", this.repaint);
    this.plot?.destroy();
  }

  #draw() {
    const { lines, format, axis, label } = this.props, ink = paint("--dim"), grid = { stroke: paint("--line"), width: 1 };
    this.plot?.destroy();
    this.plotted.setAttribute("aria-label", `${label}: ${lines.length} lines. Left and right go along them, up and down from one to the next.`);
    const font = "12px system-ui, sans-serif";
    this.plot = new uPlot({
      width: this.plotted.clientWidth || 600,
      height: HEIGHT,
      legend: { show: false },
      focus: { alpha: 0.25 },
      cursor: { focus: { prox: 24 }, drag: { x: false, y: false }, points: { size: 7 } },
      scales: { x: { time: false } },
      axes: [
        { stroke: ink, grid, ticks: grid, font, labelFont: font, label: axis.label, labelSize: 22, size: 34, values: (_, marks) => marks.map((mark) => axis.format(mark)) },
        { stroke: ink, grid, ticks: grid, font, size: 74, values: (_, marks) => marks.map((mark) => format(mark)) },
      ],
      series: [{}, ...lines.map((line, i) => ({
        label: line.name, show: this.#shown(line), spanGaps: true, dash: this.looks[i].dash, stroke: paint(this.looks[i].colour),
        width: line.main ? 3 : 1.6, alpha: line.main || lines.length <= CROWD ? 1 : 0.75, points: { show: line.points.length < 3, size: 7 },
      }))],
      hooks: { setCursor: [(plot) => this.#tell(plot)], setSeries: [(plot, index) => { this.near = index; this.#tell(plot); }] },
    }, aligned(lines), this.plotted);
  }

  #shown(line) { return !this.only.size || this.only.has(line.name) || Boolean(line.main); }

  // What is under the cursor, in words below the chart.
  #tell(plot) {
    const { lines, format, axis, label } = this.props, place = plot.cursor.idx;
    if (place == null) return show(this.told, h("span", { class: "dim" }, `${label}, by ${axis.label}`));
    const values = lines.map((line, i) => ({ line, look: this.looks[i], value: plot.data[i + 1][place], index: i + 1 }));
    const near = values.find((each) => each.index === this.near && each.value != null);
    const main = values.find((each) => each.line.main && each.value != null);
    const few = lines.length <= 8 ? values.filter((each) => each.value != null && plot.series[each.index].show) : [main, near];
    const told = [...new Set(few)].filter(Boolean);
    const item = ({ line, look: looks, value, index }) => h("span", { class: index === this.near ? "item near" : "item" }, swatch(looks), `${line.name} ${format(value)}`);
    return show(this.told, h("span", { class: "item" }, `${axis.label} ${axis.format(plot.data[0][place])}`), told.map(item));
  }

  #at(place, near = this.near) {
    const { plot } = this;
    if (place === null) return plot.setCursor({ left: -10, top: -10 });
    const value = plot.data[near]?.[place];
    plot.setCursor({ left: plot.valToPos(plot.data[0][place], "x"), top: value == null ? 0 : plot.valToPos(value, "y") });
    return plot.setSeries(near, { focus: true });
  }

  #key(event) {
    const { plot } = this, last = plot.data[0].length - 1;
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step || last < 0) return;
    event.preventDefault();
    const visible = plot.series.map((line, i) => i).filter((i) => i && plot.series[i].show);
    const place = Math.min(last, Math.max(0, (plot.cursor.idx ?? (step[0] < 0 ? last + 1 : -1)) + step[0]));
    const near = visible[(Math.max(0, visible.indexOf(this.near)) + step[1] + visible.length) % visible.length];
    this.near = near;
    this.#at(place, near);
  }

  #isolate(name) {
    if (!this.only.delete(name)) this.only.add(name);
    this.#choose();
  }

  #choose() {
    this.props.lines.forEach((line, i) => this.plot.setSeries(i + 1, { show: this.#shown(line) }));
    this.#legend();
  }

  #legend() {
    const { lines } = this.props, wanted = this.search.trim().toLowerCase();
    const found = lines.map((line, i) => ({ line, look: this.looks[i] })).filter(({ line }) => line.main || line.name.toLowerCase().includes(wanted));
    const several = lines.length - lines.filter((line) => line.main).length;
    const typed = (event) => { this.search = event.target.value; this.#legend(); };
    const all = () => { this.only.clear(); this.#choose(); };
    show(this.legend,
      several >= SEARCHED_FROM && h("input", { key: "search", type: "search", placeholder: "Find a line", "aria-label": "Find a line by its name", oninput: typed }),
      this.only.size > 0 && h("button", { key: "all", class: "small", onclick: all }, "Show all"),
      found.map(({ line, look: looks }) => (line.main || several < 2
        ? h("span", { key: line.name, class: "item" }, swatch(looks), line.name)
        : h("button", { key: line.name, class: "item", "aria-pressed": String(this.only.has(line.name)), title: "Show it alone, with others that are chosen",
            onclick: () => this.#isolate(line.name), onmouseenter: () => this.plot.setSeries(lines.indexOf(line) + 1, { focus: true }), onmouseleave: () => this.plot.setSeries(null, { focus: true }) },
          swatch(looks), line.name))),
      wanted && found.length === lines.filter((line) => line.main).length && h("span", { class: "dim" }, "No line is called so."));
    if (this.plot?.cursor.idx == null && this.plot) this.#tell(this.plot);
  }
}
