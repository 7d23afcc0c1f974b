"use strict";
// Every job as a line over all its settings and results, and as a dot over any two of them; brushed, coloured, pointed at.
// What it draws are the page's lists of jobs (reports/page/joblist.py): {ids, columns: [{label, values, codes} or {label, numbers}]}.
const MOST_SVG = 1500, MOST_AXES = 16, MOST_VALUES = 40, STEPS = 12, AXIS_ROOM = 62;
const RAMP = [[49, 104, 190], [140, 140, 150], [214, 98, 20]];

const rampAt = (share) => {
  const place = share * (RAMP.length - 1), low = Math.min(Math.floor(place), RAMP.length - 2);
  return `rgb(${RAMP[low].map((one, i) => Math.round(one + (RAMP[low + 1][i] - one) * (place - low))).join(",")})`;
};
const resolved = (name) => name.startsWith("var(") ? getComputedStyle(document.documentElement).getPropertyValue(name.slice(4, -1)).trim() : name;

function axisOf(column) {
  // Where a column's values stand, from 0 to 1; null where a job has none. Few distinct values stand evenly.
  if (column.values) {
    const values = column.values.filter((one) => one !== null), last = Math.max(values.length - 1, 1);
    if (values.length < 2 || values.length > MOST_VALUES) return null;
    const ticks = values.map((one, index) => [index / last, typeof one === "number" ? number(one, 6) : String(one)]);
    return { column, ticks, distinct: values.length, at: (row) => column.codes[row] < values.length ? column.codes[row] / last : null };
  }
  let low = Infinity, high = -Infinity;
  for (const one of column.numbers) if (one !== null) { low = Math.min(low, one); high = Math.max(high, one); }
  if (!(high > low)) return null;
  const log = low > 0 && high / low > 500, move = log ? Math.log10 : (value) => value, factor = column.factor || 1;
  const place = (value) => (move(value) - move(low)) / (move(high) - move(low));
  const found = scale({ type: log ? "log" : "linear", low: low * factor, high: high * factor, tight: true }, 0, 1, 5).ticks;
  const ticks = found.map(([value, label]) => [place(value / factor), label]);
  return { column, ticks, distinct: Infinity, at: (row) => column.numbers[row] === null ? null : place(column.numbers[row]) };
}

function penOf(box, width, height, count) {
  // SVG where there are few marks, so that they print sharply; else a canvas below the axes.
  if (count <= MOST_SVG) {
    const image = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true", class: "marks" });
    box.append(image);
    return {
      lines(color, opacity, size, rows, points) {
        const d = rows.map((row) => points(row).map(([x, y], i) => `${i ? "L" : "M"}${fixed(x)} ${fixed(y)}`).join("")).join("");
        if (d) svg("path", { d, fill: "none", stroke: color, "stroke-width": size, opacity }, image);
      },
      dots(color, opacity, rows, point, r) {
        const d = rows.map((row) => { const [x, y] = point(row); return marker("circle", fixed(x), fixed(y), r); }).join("");
        if (d) svg("path", { d, fill: color, opacity }, image);
      },
      clear() { image.replaceChildren(); },
    };
  }
  const canvas = document.createElement("canvas"), dense = Math.min(devicePixelRatio || 1, 2), brush = canvas.getContext("2d");
  canvas.className = "marks";
  canvas.setAttribute("aria-hidden", "true");
  canvas.width = Math.round(width * dense);
  canvas.height = Math.round(height * dense);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  brush.scale(dense, dense);
  box.append(canvas);
  return {
    lines(color, opacity, size, rows, points) {
      Object.assign(brush, { globalAlpha: opacity, strokeStyle: resolved(color), lineWidth: size });
      // Not one path of them all: a path that crosses itself a million times takes seconds to fill in.
      for (let start = 0; start < rows.length; start += 64) {
        brush.beginPath();
        for (let index = start; index < Math.min(start + 64, rows.length); index += 1)
          points(rows[index]).forEach(([x, y], i) => i ? brush.lineTo(x, y) : brush.moveTo(x, y));
        brush.stroke();
      }
    },
    dots(color, opacity, rows, point, r) {
      Object.assign(brush, { globalAlpha: opacity, fillStyle: resolved(color) });
      for (const row of rows) { const [x, y] = point(row); brush.fillRect(x - r, y - r, 2 * r, 2 * r); }
    },
    clear() { brush.clearRect(0, 0, width, height); },
  };
}

function explore(place, jobs, options = {}) {
  // options: {kind, pick(row), changed(rows or null), sample: whether jobs.of tells of how many these are one}; gives back
  // {show(jobs), among(set or null), groups(rows): the jobs by their colour}. Held jobs stand out.
  const brushes = new Map();
  let dragging = false, later = null, axes = [], among = null, colors = null, redraw = () => {}, width = 0, drawn = "";
  const bar = html("div", { class: "bar" }), status = html("span", { role: "status", class: "count" });
  const clear = html("button", { type: "button", hidden: "" }, "Clear the brushes");
  const choose = (label) => html("select", { "aria-label": label });
  const tint = choose("Colour"), across = choose("Across"), up = choose("Up");
  const key = html("span", { class: "keys" }), lines = html("div", { class: "scroll lines", tabindex: "0", role: "region", "aria-label": "Parallel coordinates" });
  const cloud = html("div", { class: "cloud" });
  bar.append(html("label", {}, "Colour ", tint), key, clear, status);
  const note = html("p", { class: "note" }, "Drag along an axis to brush it, several axes to narrow down; click an axis to clear it. With the keyboard: arrows move a brush, Shift and arrows widen it, Escape clears it.");
  place.replaceChildren(bar, lines, note, html("div", { class: "bar" }, html("label", {}, "Across ", across), html("label", {}, "Up ", up)), cloud);

  const passes = (row) => {
    if (among && !among.has(jobs.ids[row])) return false;
    for (const [name, [low, high]] of brushes) {
      const axis = axes.find((one) => one.column.name === name), at = axis ? axis.at(row) : 0.5;
      if (at === null || at < low - 1e-9 || at > high + 1e-9) return false;
    }
    return true;
  };
  const about = (row) => `${jobs.ids[row].slice(0, 12)}\n` + jobs.columns.map((one) => [one.label, cellOf(one, row)])
    .filter(([, value]) => value !== null).map(([label, value]) => `${label}: ${typeof value === "number" ? number(value, 5) : String(value).slice(0, 60)}`).join("\n");

  function colouring() {
    const axis = axes.find((one) => one.column.name === tint.value);
    key.replaceChildren();
    if (!axis) return { of: () => 0, list: ["var(--c1)"] };
    if (axis.distinct <= 8) {
      const last = axis.ticks.length - 1;
      axis.ticks.forEach(([, label], index) => {
        const one = html("span", { class: "key" }), image = svg("svg", { viewBox: "0 0 22 12", "aria-hidden": "true" });
        svg("path", { d: "M0 6H22", stroke: color(index), "stroke-width": 3 }, image);
        one.append(image, label.slice(0, 40));
        key.append(one);
      });
      return { of: (row) => axis.at(row) === null ? last + 1 : Math.round(axis.at(row) * last), list: [...axis.ticks.map((_, index) => color(index)), "var(--soft)"] };
    }
    const image = svg("svg", { viewBox: "0 0 120 12", class: "ramp", "aria-hidden": "true" });
    for (let index = 0; index < STEPS; index += 1) svg("rect", { x: index * 10, y: 0, width: 10.5, height: 12, fill: rampAt(index / (STEPS - 1)) }, image);
    key.append(html("span", { class: "key" }, axis.ticks[0][1], image, axis.ticks[axis.ticks.length - 1][1]));
    const list = Array.from({ length: STEPS }, (_, index) => rampAt(index / (STEPS - 1)));
    return { of: (row) => axis.at(row) === null ? STEPS : Math.min(STEPS - 1, Math.floor(axis.at(row) * STEPS)), list: [...list, "var(--soft)"] };
  }

  function sorted() {
    const inside = colors.list.map(() => []), outside = [];
    for (let row = 0; row < jobs.ids.length; row += 1) (passes(row) ? inside[colors.of(row)] : outside).push(row);
    return [inside, outside];
  }

  function overlay(box, wide, high, label) {
    const image = svg("svg", { viewBox: `0 0 ${wide} ${high}`, width: wide, height: high, role: "group", "aria-label": label, class: "over" });
    box.append(image);
    return image;
  }

  function hovering(image, find, points) {
    const bright = svg("path", { class: "bright", d: "" }, image);
    let row = -1;
    const gone = () => { row = -1; bright.setAttribute("d", ""); tip.style.visibility = "hidden"; image.style.cursor = ""; };
    image.addEventListener("pointermove", (event) => {
      if (event.buttons) return;
      const frame = image.getBoundingClientRect();
      row = find(event.clientX - frame.left, event.clientY - frame.top);
      if (row < 0) { gone(); return; }
      const path = points(row);
      bright.setAttribute("d", path.length > 1 ? "M" + path.map(([x, y]) => `${fixed(x)} ${fixed(y)}`).join("L") : marker("circle", fixed(path[0][0]), fixed(path[0][1]), 6));
      tip.textContent = about(row);
      image.style.cursor = "pointer";
      placeTip(event);
    });
    image.addEventListener("pointerleave", gone);
    image.addEventListener("click", () => { if (row >= 0 && options.pick) options.pick(row); });
  }

  function brushable(image, axis, x, top, bottom, changed) {
    const shown = svg("rect", { x: x - 7, width: 14, y: top, height: 0, class: "brush" }, image);
    const handle = svg("rect", { x: x - 13, width: 26, y: top - 8, height: bottom - top + 16, class: "axis-hit", tabindex: 0, role: "slider", "aria-label": `Brush ${axis.column.label}`, "aria-orientation": "vertical", "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": 50 }, image);
    const share = (event) => Math.min(1, Math.max(0, (bottom - (event.clientY - image.getBoundingClientRect().top)) / (bottom - top)));
    const show = () => {
      const range = brushes.get(axis.column.name);
      shown.setAttribute("y", range ? fixed(bottom - range[1] * (bottom - top)) - 2 : top);
      shown.setAttribute("height", range ? fixed((range[1] - range[0]) * (bottom - top)) + 4 : 0);
      handle.setAttribute("aria-valuetext", range ? `from ${Math.round(100 * range[0])} to ${Math.round(100 * range[1])} percent of the axis` : "everything");
      handle.setAttribute("aria-valuenow", range ? Math.round(50 * (range[0] + range[1])) : 50);
    };
    const put = (range) => { if (range) brushes.set(axis.column.name, range); else brushes.delete(axis.column.name); show(); changed(); };
    let start = null;
    handle.addEventListener("pointerdown", (event) => { start = share(event); dragging = true; handle.setPointerCapture(event.pointerId); });
    handle.addEventListener("pointermove", (event) => {
      if (start === null) return;
      const now = share(event);
      if (Math.abs(now - start) > 0.015) put([Math.min(start, now), Math.max(start, now)]);
    });
    handle.addEventListener("pointerup", (event) => {
      if (start !== null && Math.abs(share(event) - start) <= 0.015) put(null);
      ended();
    });
    const ended = () => { start = null; dragging = false; if (later) show(later); };
    handle.addEventListener("pointercancel", ended);
    handle.addEventListener("click", (event) => event.stopPropagation());
    handle.addEventListener("keydown", (event) => {
      const by = { ArrowUp: 0.05, ArrowRight: 0.05, ArrowDown: -0.05, ArrowLeft: -0.05 }[event.key];
      if (event.key === "Escape") put(null);
      else if (by === undefined) return;
      else {
        const [low, high] = brushes.get(axis.column.name) || [0.25, 0.75], bounded = (one) => Math.min(1, Math.max(0, one));
        put(event.shiftKey ? [bounded(low - by), bounded(Math.max(high + by, low - by))] : [bounded(low + by), bounded(high + by)]);
      }
      event.preventDefault();
    });
    show();
  }

  function build() {
    width = Math.max(place.clientWidth, 200);
    const wide = Math.max(width, axes.length * AXIS_ROOM), high = 360, top = 52, bottom = high - 22;
    const gap = axes.length > 1 ? (wide - 84) / (axes.length - 1) : 0, xs = axes.map((_, index) => 42 + index * gap);
    const yOf = (axis, row) => { const at = axis.at(row); return at === null ? bottom + 14 : bottom - at * (bottom - top); };
    const points = (row) => axes.map((axis, index) => [xs[index], yOf(axis, row)]);
    const box = html("div", { class: "stage" });
    box.style.width = `${wide}px`;
    box.style.height = `${high}px`;
    lines.replaceChildren(box);
    const pen = penOf(box, wide, high, jobs.ids.length), image = overlay(box, wide, high, "Parallel coordinates");
    const stress = svg("path", { class: "bright", d: "" }, image);
    hovering(image, (x, y) => {
      const left = Math.min(axes.length - 2, Math.max(0, Math.floor((x - 42) / gap))), share = Math.min(1, Math.max(0, (x - xs[left]) / gap));
      let best = -1, distance = 7;
      for (let row = 0; row < jobs.ids.length; row += 1) {
        const a = yOf(axes[left], row), far = Math.abs(a + (yOf(axes[left + 1], row) - a) * share - y);
        if (far < distance && passes(row)) { distance = far; best = row; }
      }
      return best;
    }, points);
    axes.forEach((axis, index) => {
      const x = xs[index], label = axis.column.label.replace(/_/g, " ").slice(0, 26), words = label.split(/ (?=\S{3,})/), head = svg("text", { x, y: 14, "text-anchor": "middle", class: "title" }, image);
      const two = words.length > 1 && label.length > 9 ? [words.slice(0, -1).join(" "), words[words.length - 1]] : [label];
      two.forEach((one, line) => svg("tspan", { x, dy: line ? 13 : 0 }, head, one));
      svg("path", { d: `M${x} ${top}V${bottom}`, class: "axis" }, image);
      let last = Infinity;
      for (const [at, label] of axis.ticks) {
        const y = bottom - at * (bottom - top);
        if (last - y < 11) continue;
        last = y;
        const side = index && index === axes.length - 1 ? { x: x - 5, "text-anchor": "end" } : { x: x + 5 };
        svg("text", { ...side, y: fixed(y) + 4, class: "tick" }, image, label.length > 11 ? `${label.slice(0, 10)}…` : label);
      }
    });
    axes.forEach((axis, index) => brushable(image, axis, xs[index], top, bottom, () => redraw()));
    const dots = buildCloud();
    let waiting = false;
    const draw = () => {
      waiting = false;
      colors = colouring();
      const [inside, outside] = sorted(), count = inside.reduce((sum, one) => sum + one.length, 0);
      const opacity = Math.max(0.06, Math.min(0.75, 40 / Math.sqrt(count + 1) / 4));
      pen.clear();
      if (axes.length > 1) {
        pen.lines("var(--faint)", 0.4, 1, outside, points);
        inside.forEach((rows, index) => pen.lines(colors.list[index], opacity, 1.2, rows, points));
      }
      dots(inside, outside, count);
      const held = HELD.kind === (options.kind ?? "") ? HELD.ids.map((id) => jobs.ids.indexOf(id)).filter((row) => row >= 0) : [];
      stress.setAttribute("d", axes.length > 1 ? held.map((row) => "M" + points(row).map(([x, y]) => `${fixed(x)} ${fixed(y)}`).join("L")).join("") : "");
      const narrowed = brushes.size || among;
      const carried = jobs.ids.length.toLocaleString("en");
      const all = options.sample && jobs.of ? `${carried} jobs, a random sample of ${jobs.of.toLocaleString("en")}` : `${carried} jobs`;
      status.textContent = narrowed ? `${count.toLocaleString("en")} of ${all}` : all;
      clear.hidden = !brushes.size;
      const now = JSON.stringify([...brushes, tint.value]);
      if (options.changed && now !== drawn) options.changed(brushes.size ? new Set(inside.flat().map((row) => jobs.ids[row])) : null);
      drawn = now;
    };
    redraw = () => { if (!waiting) { waiting = true; requestAnimationFrame(draw); } };
    draw();
  }

  function buildCloud() {
    const first = axes.find((one) => one.column.name === across.value), second = axes.find((one) => one.column.name === up.value);
    if (!first || !second) { cloud.replaceChildren(); return () => {}; }
    const high = Math.round(Math.min(Math.max(width * 0.5, 230), 380)), left = 78, right = width - 14, top = 12, bottom = high - 42;
    const point = (row) => {
      const x = first.at(row), y = second.at(row);
      return [x === null ? left - 12 : left + 8 + x * (right - left - 16), y === null ? bottom + 12 : bottom - 8 - y * (bottom - top - 16)];
    };
    const box = html("div", { class: "stage" });
    box.style.width = `${width}px`;
    box.style.height = `${high}px`;
    cloud.replaceChildren(box);
    const pen = penOf(box, width, high, jobs.ids.length), image = overlay(box, width, high, "Scatter");
    svg("path", { d: `M${left} ${bottom}H${right}M${left} ${top}V${bottom}`, class: "axis" }, image);
    let end = -Infinity;
    for (const [at, label] of first.ticks) {
      const x = left + 8 + at * (right - left - 16), text = label.slice(0, 16);
      if (x - wide(text) / 2 < end) continue;
      end = x + wide(text) / 2 + 5;
      svg("text", { x: fixed(x), y: bottom + 16, "text-anchor": "middle" }, image, text);
    }
    for (const [at, label] of second.ticks) svg("text", { x: left - 7, y: fixed(bottom - 8 - at * (bottom - top - 16)) + 4, "text-anchor": "end" }, image, label.slice(0, 9));
    svg("text", { x: (left + right) / 2, y: high - 6, "text-anchor": "middle" }, image, first.column.label);
    svg("text", { transform: `translate(12 ${(top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, image, second.column.label);
    hovering(image, (x, y) => {
      let best = -1, distance = 144;
      for (let row = 0; row < jobs.ids.length; row += 1) {
        const [a, b] = point(row), far = (a - x) ** 2 + (b - y) ** 2;
        if (far < distance && passes(row)) { distance = far; best = row; }
      }
      return best;
    }, (row) => [point(row)]);
    return (inside, outside, count) => {
      const r = count > 5000 ? 1 : count > 400 ? 1.8 : 2.6;
      pen.clear();
      pen.dots("var(--faint)", 0.6, outside, point, r);
      inside.forEach((rows, index) => pen.dots(colors.list[index], count > 400 ? 0.55 : 0.85, rows, point, r));
    };
  }

  function fill(select, wanted, fallback) {
    const kept = select.value || wanted;
    select.replaceChildren(...axes.map((one) => new Option(one.column.label, one.column.name)));
    select.value = axes.some((one) => one.column.name === kept) ? kept : axes.some((one) => one.column.name === wanted) ? wanted : fallback;
  }

  function show(given) {
    // A brush that is being drawn is finished first.
    later = dragging ? given : null;
    if (dragging) return;
    jobs = given;
    const found = jobs.columns.map(axisOf).filter((one) => one && one.column.name !== "attempt");
    const settings = found.filter((one) => one.column.setting), rest = found.filter((one) => !one.column.setting);
    axes = [...settings.slice(0, MOST_AXES - Math.min(rest.length, 5)), ...rest].slice(0, MOST_AXES);
    for (const name of brushes.keys()) if (!axes.some((one) => one.column.name === name)) brushes.delete(name);
    place.hidden = axes.length < 2;
    if (place.hidden) return;
    const last = axes[axes.length - 1].column.name;
    const named = (name) => axes.some((one) => one.column.name === name) ? name : null;
    fill(tint, named("bits") || axes[0].column.name, axes[0].column.name);
    fill(across, named("train_loss") || axes[0].column.name, axes[0].column.name);
    fill(up, named("generalization_gap") || last, last);
    drawn = "new";
    const held = place.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    build();
    if (held) [...place.querySelectorAll(".axis-hit")].find((one) => one.getAttribute("aria-label") === held)?.focus({ preventScroll: true });
  }

  function groups(rows) {
    const axis = axes.find((one) => one.column.name === tint.value);
    if (!axis || axis.distinct > 8) return [[`${rows.length.toLocaleString("en")} jobs`, rows.map((row) => jobs.ids[row])]];
    const found = axis.ticks.map(([, label]) => [`${axis.column.label} ${label}`, []]);
    for (const row of rows) if (axis.at(row) !== null) found[Math.round(axis.at(row) * (axis.ticks.length - 1))][1].push(jobs.ids[row]);
    return found;
  }

  tint.addEventListener("change", () => redraw());
  document.addEventListener("held", () => redraw());
  for (const select of [across, up]) select.addEventListener("change", build);
  clear.addEventListener("click", () => { brushes.clear(); build(); });
  new ResizeObserver(([entry]) => {
    const now = Math.round(entry.contentRect.width);
    if (now && Math.abs(now - width) > 1 && !place.hidden) build();
  }).observe(place);
  // A canvas has no variables of CSS: it is drawn anew in another theme.
  new MutationObserver(() => redraw()).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw());
  watchEdges(lines);
  show(jobs);
  return { show, groups, among(given) { among = given; redraw(); } };
}
