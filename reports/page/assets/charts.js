"use strict";
// Draws the plots: every `.plots[data-chart]` gets the panels of that chart, one SVG each, laid out for its width.
const NS = "http://www.w3.org/2000/svg";
const SHAPES = ["circle", "square", "triangle", "diamond", "cross", "circle", "square", "triangle"];
const DASHES = ["", "7 3", "2 2.5", "9 3 2 3", "4 4", "1 3", "12 4", "6 2 2 2"];

const svg = (name, attributes, parent, text) => {
  const node = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
};
const color = (series) => `var(--c${series % 8})`;
// Series of one colour have another marker and dash each: as `Quantization.marker` in reports/quantization.py.
const look = (series) => (series + Math.floor(series / 8)) % 8;
const wide = (text) => 6.6 * String(text).length;

const number = (value, digits = 3) => {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-4) return value.toExponential(digits - 1).replace("-", "−");
  return Number(value.toPrecision(digits)).toString().replace("-", "−");
};

const step = (span, count) => {
  const raw = span / count, base = 10 ** Math.floor(Math.log10(raw));
  return base * [1, 2, 2.5, 5, 10].find((one) => one * base >= raw * 0.999);
};

function scale(axis, start, end, count) {
  // axis: {type, low, high, labels}; returns a function of a value with its ticks.
  if (axis.type === "category") {
    const size = (end - start) / axis.labels.length;
    const at = (value) => start + size * (value + 0.5);
    at.ticks = axis.labels.map((label, index) => [index, label]);
    at.size = Math.abs(size);
    return at;
  }
  const log = axis.type === "log";
  const move = log ? Math.log10 : (value) => value;
  let low = move(axis.low), high = move(axis.high);
  if (low === high) { const pad = log ? 0.3 : Math.abs(low) * 0.1 || 0.5; low -= pad; high += pad; }
  const ticks = [];
  if (log) {
    for (let power = Math.floor(low); power <= Math.ceil(high); power += 1)
      for (const lead of high - low > 2.4 ? [1] : high - low > 1.1 ? [1, 3] : [1, 2, 5]) ticks.push(lead * 10 ** power);
  } else {
    const width = step(high - low, count);
    if (!axis.tight) { low = Math.floor(low / width + 1e-9) * width; high = Math.ceil(high / width - 1e-9) * width; }
    for (let index = Math.ceil(low / width - 1e-9); index * width <= high + width * 1e-9; index += 1) ticks.push(index * width);
  }
  const at = (value) => start + ((move(value) - low) / (high - low)) * (end - start);
  const shown = ticks.filter((tick) => move(tick) >= low - 1e-9 && move(tick) <= high + 1e-9);
  const places = Math.max(...shown.map((tick) => (number(tick, 6).split(".")[1] || "").length), 0);
  at.ticks = shown.map((tick) => [tick, log || places > 6 ? number(tick, 6) : tick.toFixed(places).replace("-", "−")]);
  return at;
}

function marker(shape, x, y, r) {
  if (shape === "square") return `M${x - r * .88} ${y - r * .88}h${r * 1.76}v${r * 1.76}h${-r * 1.76}z`;
  if (shape === "triangle") return `M${x} ${y - r * 1.15}L${x + r * 1.05} ${y + r * .8}H${x - r * 1.05}z`;
  if (shape === "diamond") return `M${x} ${y - r * 1.25}L${x + r * 1.25} ${y}L${x} ${y + r * 1.25}L${x - r * 1.25} ${y}z`;
  if (shape === "cross") return `M${x - r} ${y - r * .4}h${r * .6}v${-r * .6}h${r * .8}v${r * .6}h${r * .6}v${r * .8}h${-r * .6}v${r * .6}h${-r * .8}v${-r * .6}h${-r * .6}z`;
  return `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`;
}

const fixed = (value) => Math.round(value * 10) / 10;

function spread(values, place, room) {
  // Offsets of dots in one column: those of equal height stand side by side, as in a sina plot.
  const bins = new Map();
  values.forEach((value, index) => {
    const bin = Math.round(place(value) / 3);
    if (!bins.has(bin)) bins.set(bin, []);
    bins.get(bin).push(index);
  });
  const most = Math.max(...[...bins.values()].map((one) => one.length));
  const unit = Math.min(3.2, room / Math.max(most, 1));
  const offsets = new Array(values.length);
  for (const members of bins.values()) members.forEach((index, rank) => { offsets[index] = (rank - (members.length - 1) / 2) * unit; });
  return offsets;
}

const DRAW = {
  band(mark, at, layer) {
    const up = mark.x.map((x, i) => `${fixed(at.x(x))} ${fixed(at.y(mark.high[i]))}`);
    const down = mark.x.map((x, i) => `${fixed(at.x(x))} ${fixed(at.y(mark.low[i]))}`).reverse();
    svg("path", { d: `M${up.concat(down).join("L")}z`, fill: color(mark.series), opacity: 0.1 }, layer);
    const edge = { fill: "none", stroke: color(mark.series), "stroke-width": 0.8, opacity: 0.6, "stroke-dasharray": DASHES[look(mark.series)] };
    svg("path", { d: `M${up.join("L")}M${down.join("L")}`, ...edge }, layer);
  },
  line(mark, at, layer, hits, names) {
    const points = mark.x.map((x, i) => [at.x(x), mark.y[i] === null ? null : at.y(mark.y[i]), i]).filter((one) => one[1] !== null);
    if (!points.length) return;
    const shape = SHAPES[look(mark.series)];
    svg("path", { d: "M" + points.map(([x, y]) => `${fixed(x)} ${fixed(y)}`).join("L"), fill: "none", stroke: color(mark.series),
      "stroke-width": 1.8, "stroke-dasharray": mark.points || mark.solid ? "" : DASHES[look(mark.series)], "stroke-linejoin": "round" }, layer);
    for (const [x, y, i] of points) {
      if (mark.low && mark.low[i] !== null) svg("path", { d: `M${fixed(x)} ${fixed(at.y(mark.low[i]))}V${fixed(at.y(mark.high[i]))}`, stroke: color(mark.series), "stroke-width": 1.4 }, layer);
      if (mark.points) svg("path", { d: marker(shape, fixed(x), fixed(y), 3.6), fill: color(mark.series) }, layer);
      hits.push({ x, y, text: (mark.tips && mark.tips[i]) || `${names[mark.series]}\n${at.tip(mark.x[i])}: ${number(mark.y[i])}` });
    }
  },
  bars(mark, at, layer, hits, names) {
    const floor = at.y(0);
    mark.y.forEach((y, i) => {
      if (!y) return;
      const left = at.x(mark.edges[i]), right = at.x(mark.edges[i + 1]), top = at.y(y + (mark.base ? mark.base[i] : 0));
      const bottom = mark.base ? at.y(mark.base[i]) : floor;
      svg("rect", { x: fixed(left), y: fixed(top), width: Math.max(fixed(right - left) - 0.6, 0.6), height: Math.max(fixed(bottom - top), 0.5), fill: color(mark.series), opacity: 0.85 }, layer);
      hits.push({ x: (left + right) / 2, y: top, text: `${names[mark.series]}: ${number(y)} a minute\n${number(mark.edges[i])}–${number(mark.edges[i + 1])} ${mark.unit}` });
    });
  },
  dots(mark, at, layer, hits, names) {
    const column = typeof mark.x === "number";
    const offsets = column ? spread(mark.y, at.y, at.x.size * 0.86) : null;
    const r = mark.y.length > 400 ? 1.7 : mark.y.length > 40 ? 2.2 : 4;
    const shape = SHAPES[look(mark.series)];
    let path = "";
    mark.y.forEach((value, i) => {
      const x = fixed(column ? at.x(mark.x) + offsets[i] : at.x(mark.x[i])), y = fixed(at.y(value));
      path += marker(column ? "circle" : shape, x, y, r);
      const job = mark.jobs?.[i] ?? null;  // null: the page does not carry it
      const about = job !== null ? describe(job) : mark.tips ? mark.tips[i] : names[mark.series];
      hits.push({ x, y, job, text: about, value, across: column ? null : mark.x[i] });
    });
    svg("path", { d: path, fill: color(mark.series), opacity: mark.y.length > 40 ? 0.5 : 0.9 }, layer);
  },
  box(mark, at, layer, hits) {
    const x = at.x(mark.x), half = Math.min(at.x.size * 0.3, 17), [a, b, m, c, d] = mark.quantiles.map(at.y).map(fixed);
    const shape = `M${x} ${a}V${b}M${x} ${c}V${d}M${x - half} ${b}H${x + half}V${c}H${x - half}z`;
    svg("path", { d: shape, fill: "none", class: "halo", "stroke-width": 3.6, opacity: 0.8 }, layer);
    svg("path", { d: shape, fill: "none", stroke: "var(--ink)", "stroke-width": 1.2 }, layer);
    svg("path", { d: `M${x - half} ${m}H${x + half}`, stroke: "var(--ink)", "stroke-width": 2.6 }, layer);
    const y = fixed(at.y(mark.mean));
    svg("path", { d: marker("diamond", x, y, 4), fill: "var(--paper)", stroke: "var(--ink)", "stroke-width": 1.4 }, layer);
    hits.push({ x, y, text: `${mark.label}\nmean ${number(mark.mean, 4)}, median ${number(mark.quantiles[2], 4)}\nhalf between ${number(mark.quantiles[1])} and ${number(mark.quantiles[3])}\n${mark.count} ${DATA.noun}s` });
  },
  interval(mark, at, layer, hits) {
    mark.y.forEach((row, i) => {
      const y = fixed(at.y(row)) + (mark.shift || 0), x = fixed(at.x(mark.x[i]));
      if (mark.low[i] !== null) svg("path", { d: `M${fixed(at.x(mark.low[i]))} ${y}H${fixed(at.x(mark.high[i]))}`, stroke: color(mark.series), "stroke-width": 2 }, layer);
      svg("path", { d: marker(SHAPES[look(mark.series)], x, y, 4), fill: color(mark.series), opacity: mark.opacity || 1 }, layer);
      hits.push({ x, y, text: mark.tips[i] });
    });
  },
  rule(mark, at, layer, hits, names, frame) {
    const d = mark.x !== undefined ? `M${at.x(mark.x)} ${frame.top}V${frame.bottom}` : `M${frame.left} ${at.y(mark.y)}H${frame.right}`;
    svg("path", { d, class: "rule" }, layer);
  },
};

function leftOf(panel, width) {
  // Where a panel's frame begins: room for the ticks of its y axis and their label.
  const y = scale(panel.y, 100, 0, 5);
  const widest = Math.max(...y.ticks.map(([, label]) => wide(label)), 12);
  return Math.min(widest, width * 0.45) + 10 + (panel.y.label ? 17 : 0);
}

function panelOf(panel, width, names, left) {
  const rows = panel.y.type === "category";
  const height = Math.round(rows ? 58 + panel.y.labels.length * (panel.rowHeight || 26) : Math.min(Math.max(width * 0.62, 210), 330));
  const frame = { top: panel.title ? 26 : 10, right: width - 10 };
  const turned = panel.x.type === "category" && panel.x.labels.length * Math.max(...panel.x.labels.map(wide)) > (width - 60) * 0.9;
  frame.bottom = height - (turned ? Math.max(...panel.x.labels.map(wide)) * 0.72 + 14 : 22) - (panel.x.label ? 17 : 0);
  let y = scale(panel.y, frame.bottom, frame.top, 5);
  if (rows) { y = scale({ ...panel.y, labels: panel.y.labels }, frame.top, frame.bottom, 5); }
  frame.left = left;
  const x = scale(panel.x, frame.left, frame.right, Math.max(2, Math.min(6, Math.floor(width / 90))));
  const image = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": panel.title || panel.y.label });
  const back = svg("g", {}, image);
  if (panel.title) svg("text", { x: frame.left, y: 14, class: "title" }, back, panel.title);
  for (const [value, label] of y.ticks) {
    if (!rows) svg("path", { d: `M${frame.left} ${fixed(y(value))}H${frame.right}`, class: "grid" }, back);
    const room = Math.floor((frame.left - 10) / 6.2);
    const shown = rows && label.length > room ? label.slice(0, room - 1) + "…" : label;
    const node = svg("text", { x: frame.left - 6, y: fixed(y(value)) + 4, "text-anchor": "end" }, back, shown);
    if (shown !== label) svg("title", {}, node, label);
  }
  let last = -Infinity;
  for (const [value, label] of x.ticks) {
    const place = fixed(x(value));
    if (rows || panel.kind === "scatter") svg("path", { d: `M${place} ${frame.top}V${frame.bottom}`, class: "grid" }, back);
    if (turned) svg("text", { transform: `translate(${place + 3} ${frame.bottom + 12}) rotate(-42)`, "text-anchor": "end" }, back, label);
    else if (place - wide(label) / 2 > last) {
      svg("text", { x: place, y: frame.bottom + 16, "text-anchor": "middle" }, back, label);
      last = place + wide(label) / 2 + 4;
    }
  }
  svg("path", { d: `M${frame.left} ${frame.bottom}H${frame.right}`, class: "axis" }, back);
  if (panel.x.label) svg("text", { x: (frame.left + frame.right) / 2, y: height - 4, "text-anchor": "middle" }, back, panel.x.label);
  if (panel.y.label) svg("text", { transform: `translate(11 ${(frame.top + frame.bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, back, panel.y.label);
  const hits = [], at = { x, y };
  at.tip = (value) => panel.x.labels ? panel.x.labels[value] : `${panel.x.short || "x"} ${number(value)}`;
  const layer = svg("g", {}, image);
  for (const mark of panel.marks) DRAW[mark.type](mark, at, layer, hits, names, frame);
  if (panel.hover === "x") follow(image, panel, at, names, frame);
  else listen(image, hits, panel);
  return image;
}

const tip = document.getElementById("tip");

function nearest(image, hits, event) {
  const box = image.getBoundingClientRect(), zoom = image.viewBox.baseVal.width / box.width;
  const x = (event.clientX - box.left) * zoom, y = (event.clientY - box.top) * zoom;
  let best = null, distance = 26 * 26;
  for (const hit of hits) {
    const far = (hit.x - x) ** 2 + (hit.y - y) ** 2;
    if (far < distance) { distance = far; best = hit; }
  }
  return best;
}

function placeTip(event) {
  const room = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - room.width - 6))}px`;
  tip.style.top = `${Math.max(4, event.clientY - room.height - 12)}px`;
  tip.style.visibility = "visible";
}

function follow(image, panel, at, names, frame) {
  // Curves: a line at the nearest x, and what every curve is there.
  const lines = panel.marks.filter((mark) => mark.type === "line");
  const xs = [...new Set(lines.flatMap((mark) => mark.x))];
  const cross = svg("path", { class: "rule", visibility: "hidden" }, image);
  image.addEventListener("pointermove", (event) => {
    const box = image.getBoundingClientRect(), x = (event.clientX - box.left) * image.viewBox.baseVal.width / box.width;
    const value = xs.reduce((best, one) => Math.abs(at.x(one) - x) < Math.abs(at.x(best) - x) ? one : best);
    const here = lines.map((mark) => [mark, mark.x.indexOf(value)]).filter(([mark, i]) => i >= 0 && mark.y[i] !== null);
    cross.setAttribute("d", `M${fixed(at.x(value))} ${frame.top}V${frame.bottom}`);
    cross.setAttribute("visibility", "visible");
    tip.textContent = [at.tip(value), ...here.map(([mark, i]) => `${names[mark.series]}: ${number(mark.y[i], 4)}`)].join("\n");
    placeTip(event);
  });
  image.addEventListener("pointerleave", () => { tip.style.visibility = "hidden"; cross.setAttribute("visibility", "hidden"); });
}

function listen(image, hits, panel) {
  image.addEventListener("pointermove", (event) => {
    const hit = nearest(image, hits, event);
    image.style.cursor = hit && hit.job !== undefined && hit.job !== null ? "pointer" : "";
    if (!hit) { tip.style.visibility = "hidden"; return; }
    const values = hit.value === undefined ? "" : (hit.across === null ? "" : `\n${panel.x.label}: ${number(hit.across, 4)}`) + `\n${panel.y.label || panel.title}: ${number(hit.value, 4)}`;
    tip.textContent = hit.text + values;
    placeTip(event);
  });
  image.addEventListener("pointerleave", () => { tip.style.visibility = "hidden"; });
  image.addEventListener("click", (event) => {
    const hit = nearest(image, hits, event);
    if (hit && hit.job !== undefined && hit.job !== null) { tip.style.visibility = "hidden"; showJobs(`One ${DATA.noun}`, DATA.kind, [hit.job], null); }
  });
}

function draw(spot, chart) {
  const choice = spot.querySelector("select");
  const shown = chart.choices ? chart.choices[choice ? choice.selectedIndex : 0] : chart;
  const panels = shown.panels, names = shown.names || chart.names;
  nameSeries(spot, chart, shown, names);
  const grid = spot.querySelector(".plots");
  const room = grid.clientWidth || 680, gap = 19;
  const columns = Math.max(1, Math.min(panels.length, chart.columns || 4, Math.floor((room + gap) / ((chart.minimum || 300) + gap))));
  grid.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
  const width = Math.floor((room - gap * (columns - 1)) / columns);
  const left = Math.max(...panels.map((panel) => leftOf(panel, width)));
  grid.replaceChildren(...panels.map((panel) => panelOf(panel, width, names, left)));
}

function nameSeries(spot, chart, shown, names) {
  // The legend: of all choices, where they have the same series, so that it stays as it is.
  const marks = (shown.names ? [shown] : chart.choices || [chart]).flatMap((one) => one.panels).flatMap((one) => one.marks);
  const used = new Set(marks.filter((mark) => mark.series !== undefined).map((mark) => mark.series));
  spot.querySelector(".keys").replaceChildren(...(used.size > 1 && chart.legend !== false ? [legend(chart, names, used)] : []));
}

function legend(chart, names, used) {
  const keys = document.createDocumentFragment();
  names.forEach((name, series) => {
    if (!used.has(series)) return;
    const key = document.createElement("span");
    key.className = "key";
    const image = svg("svg", { viewBox: "0 0 22 12", "aria-hidden": "true" });
    if (chart.lines) svg("path", { d: "M0 6H22", stroke: color(series), "stroke-width": 2, "stroke-dasharray": chart.lines === "dashed" ? DASHES[look(series)] : "" }, image);
    if (chart.lines !== "dashed") svg("path", { d: marker(SHAPES[look(series)], 11, 6, 4), fill: color(series) }, image);
    key.append(image, name);
    keys.append(key);
  });
  return keys;
}

function setUp(place) {
  const chart = DATA.charts[place.dataset.chart];
  const bar = place.querySelector(".bar");
  const keys = document.createElement("span");
  keys.className = "keys";
  bar.append(keys);
  if (chart.choices && chart.choices.length > 1) {
    const select = document.createElement("select");
    select.setAttribute("aria-label", chart.choose);
    for (const choice of chart.choices) select.append(new Option(choice.label));
    select.addEventListener("change", () => draw(place, chart));
    const label = document.createElement("label");
    label.append(`${chart.choose} `, select);
    bar.prepend(label);
  }
  let before = 0;
  new ResizeObserver(([entry]) => {
    const width = Math.round(entry.contentRect.width);
    if (width && width !== before) { before = width; draw(place, chart); }
  }).observe(place);
}
