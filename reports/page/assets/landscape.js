"use strict";
// Surfaces of the loss, drawn on a canvas from the back to the front, and lines between models; all panels turn together.
const DATA = JSON.parse(document.getElementById("data").textContent);
const VIRIDIS = [[68, 1, 84], [72, 24, 106], [71, 45, 123], [66, 64, 134], [59, 82, 139], [51, 99, 141], [44, 114, 142], [38, 130, 142], [33, 145, 140],
  [31, 160, 136], [40, 174, 128], [63, 188, 115], [94, 201, 98], [132, 212, 75], [173, 220, 48], [216, 226, 25], [253, 231, 37]];
const START = { turn: -0.95, tilt: 0.72, zoom: 1 };
const TALL = 0.95, LEVELS = 14, SPAN = 1e6, BUSY = 90;
const state = { chosen: 0, quantity: "loss", scale: DATA.scale, camera: { ...START }, moving: false };
let panels = [];

const make = (name, attributes, ...children) => {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  node.append(...children);
  return node;
};
const number = (value, digits = 3) => {
  if (value === null || value === undefined) return "not finite";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-4) return value.toExponential(digits - 1).replace("-", "−");
  return Number(value.toPrecision(digits)).toString().replace("-", "−");
};
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const group = () => DATA.groups[state.chosen];
const loss = () => state.quantity === "loss";

function colour(share, light = 1) {
  const place = Math.min(Math.max(share, 0), 1) * (VIRIDIS.length - 1), low = Math.min(Math.floor(place), VIRIDIS.length - 2);
  const mixed = VIRIDIS[low].map((from, channel) => Math.round((from + (VIRIDIS[low + 1][channel] - from) * (place - low)) * light));
  return `rgb(${mixed.join(",")})`;
}

function rangeOf(grids) {
  // One scale for all panels: the share of the height at which a value stands, and the values to name.
  if (!loss()) return { at: (value) => value, ticks: [0, 0.25, 0.5, 0.75, 1].map((one) => [one, `${100 * one}%`]) };
  let high = 0, low = Infinity;
  for (const grid of grids) for (const value of grid.loss) if (value !== null) { high = Math.max(high, value); if (value > 0) low = Math.min(low, value); }
  if (high === 0) { high = 1; low = 0.1; }
  if (state.scale === "linear") {
    const raw = high / 4, base = 10 ** Math.floor(Math.log10(raw)), width = base * [1, 2, 2.5, 5, 10].find((one) => one * base >= raw * 0.999);
    const ticks = [];
    for (let tick = 0; tick <= high * 1.0001; tick += width) ticks.push([tick, number(tick)]);
    return { at: (value) => (value === null ? 1 : value / high), ticks };
  }
  low = Math.max(low, high / SPAN);
  if (high < 2 * low) high = 2 * low;
  const width = Math.log(high / low), ticks = [], powers = Math.log10(high / low);
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1)
    for (const lead of powers > 2.5 ? [1] : [1, 3]) {
      const tick = lead * 10 ** power;
      if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push([tick, number(tick)]);
    }
  return { at: (value) => (value === null ? 1 : Math.min(Math.max(Math.log(Math.max(value, low) / low) / width, 0), 1)), ticks };
}

function surfaceOf(grid, range) {
  // Heights, the colour of each cell, and the contour lines in it; nothing here depends on the view.
  const n = group().points, values = loss() ? grid.loss : grid.accuracy;
  const heights = Float64Array.from(values, (value) => range.at(value)), fills = new Array((n - 1) * (n - 1)), lines = new Array((n - 1) * (n - 1));
  const run = 2 / (n - 1);
  for (let i = 0; i < n - 1; i += 1) for (let j = 0; j < n - 1; j += 1) {
    const [a, b, c, d] = [heights[i * n + j], heights[(i + 1) * n + j], heights[(i + 1) * n + j + 1], heights[i * n + j + 1]];
    const du = ((b + c - a - d) / 2 * TALL) / run, dv = ((c + d - a - b) / 2 * TALL) / run;
    const light = (0.45 * -du + 0.25 * -dv + 0.86) / Math.hypot(du, dv, 1);
    fills[i * (n - 1) + j] = colour((a + b + c + d) / 4, 0.66 + 0.36 * Math.max(light, 0));
    lines[i * (n - 1) + j] = crossings([[i, j, a], [i + 1, j, b], [i + 1, j + 1, c], [i, j + 1, d]]);
  }
  return { heights, fills, lines };
}

function crossings(corners) {
  // Marching squares: where the contours cross the sides of a cell, as pairs of ends.
  const heights = corners.map((one) => one[2]), low = Math.min(...heights), high = Math.max(...heights), found = [];
  for (let level = Math.ceil(low * LEVELS); level <= Math.floor(high * LEVELS); level += 1) {
    const at = level / LEVELS, ends = [];
    for (let side = 0; side < 4; side += 1) {
      const from = corners[side], to = corners[(side + 1) % 4];
      if ((from[2] < at) !== (to[2] < at)) {
        const share = (at - from[2]) / (to[2] - from[2]);
        ends.push([from[0] + (to[0] - from[0]) * share, from[1] + (to[1] - from[1]) * share, at]);
      }
    }
    for (let end = 0; end + 1 < ends.length; end += 2) found.push([ends[end], ends[end + 1]]);
  }
  return found;
}

function projection(canvas) {
  const { turn, tilt, zoom } = state.camera, width = canvas.clientWidth, height = canvas.clientHeight;
  const size = Math.min(width / 3.55, height / 2.75) * zoom, [c, s, ct, st] = [Math.cos(turn), Math.sin(turn), Math.cos(tilt), Math.sin(tilt)];
  return (u, v, h) => {
    const across = u * c - v * s, away = u * s + v * c, up = (h - 0.5) * TALL;
    return [width / 2 + across * size, height * 0.5 - (away * st + up * ct) * size, away];
  };
}

function drawSurface(panel) {
  const { canvas, grid } = panel, n = group().points, context = prepare(canvas), project = projection(canvas);
  const { heights, fills, lines } = panel.surface, unit = 2 / (n - 1), at = (i, j, h) => project(i * unit - 1, j * unit - 1, h);
  const [ink, soft, faint] = [style("--ink"), style("--soft"), style("--faint")];
  drawFloor(context, project, soft, faint);
  const skip = state.moving && n > BUSY ? Math.ceil(n / BUSY) : 1;
  const { turn } = state.camera, order = (toward) => {
    const places = [];
    for (let one = 0; one < n - 1; one += skip) places.push(one);
    return toward > 0 ? places.reverse() : places;
  };
  const rows = order(Math.sin(turn)), columns = order(Math.cos(turn));
  const middle = (n - 1) / 2, around = [rows, columns].map((places) => places.findLast((one) => one <= middle && middle <= one + skip));
  context.lineJoin = "round";
  for (const i of rows) for (const j of columns) {
    const [k, l] = [Math.min(i + skip, n - 1), Math.min(j + skip, n - 1)];
    const corners = [at(i, j, heights[i * n + j]), at(k, j, heights[k * n + j]), at(k, l, heights[k * n + l]), at(i, l, heights[i * n + l])];
    context.beginPath();
    corners.forEach(([x, y], index) => (index ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.closePath();
    context.fillStyle = context.strokeStyle = fills[i * (n - 1) + j];
    context.lineWidth = 0.7;
    context.fill();
    context.stroke();
    if (skip === 1) {
      context.strokeStyle = "rgba(255,255,255,.5)";
      context.lineWidth = 0.9;
      context.beginPath();
      for (const [from, to] of lines[i * (n - 1) + j]) { context.moveTo(...at(...from).slice(0, 2)); context.lineTo(...at(...to).slice(0, 2)); }
      context.stroke();
    }
    if (i === around[0] && j === around[1]) drawModel(context, at(middle, middle, heights[middle * n + middle]));
  }
  drawHeights(context, project, soft, ink, panel.range);
  canvas.setAttribute("aria-label", `Surface of ${grid.precision}. Arrow keys turn it, plus and minus zoom.`);
}

function drawModel(context, [x, y]) {
  // Where the model itself is; what stands before it hides it.
  context.strokeStyle = "#fff";
  context.fillStyle = "#d55e00";
  context.lineWidth = 1.2;
  context.beginPath();
  context.arc(x, y, 3.6, 0, 7);
  context.fill();
  context.stroke();
}

function drawFloor(context, project, soft, faint) {
  const radius = group().radius, corners = [[-1, -1], [1, -1], [1, 1], [-1, 1]].map(([u, v]) => project(u, v, 0));
  context.strokeStyle = faint;
  context.lineWidth = 1;
  context.beginPath();
  corners.forEach(([x, y], index) => (index ? context.lineTo(x, y) : context.moveTo(x, y)));
  context.closePath();
  context.stroke();
  context.fillStyle = soft;
  context.font = "11px system-ui, sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  // Names on the sides of the floor that are nearest to the eye.
  const near = (one, other) => (project(...one, 0)[1] > project(...other, 0)[1] ? one : other);
  const put = (place, text) => {
    const [x, y] = project(...place, 0), [cx, cy] = project(0, 0, 0), away = Math.hypot(x - cx, y - cy) || 1;
    context.fillText(text, x + (x - cx) / away * 15, y + (y - cy) / away * 13);
  };
  const first = near([0, -1], [0, 1])[1], second = near([-1, 0], [1, 0])[0];
  put([0, first], "d₁");
  put([second, 0], "d₂");
  for (const end of [-1, 1]) {
    put([end * 0.86, first], number(end * radius));
    put([second, end * 0.86], number(end * radius));
  }
}

function drawHeights(context, project, soft, ink, range) {
  // The vertical axis stands at the corner that is farthest to the left.
  if (state.camera.tilt > 1.35) return;
  const corner = [[-1, -1], [1, -1], [1, 1], [-1, 1]].reduce((best, one) => (project(...one, 0)[0] < project(...best, 0)[0] ? one : best));
  const [x, bottom] = project(...corner, 0), [, top] = project(...corner, 1);
  context.strokeStyle = context.fillStyle = soft;
  context.lineWidth = 1;
  context.beginPath();
  context.moveTo(x, bottom);
  context.lineTo(x, top);
  context.textAlign = "right";
  let last = Infinity;
  for (const [tick, label] of range.ticks) {
    const [, y] = project(...corner, range.at(tick));
    context.moveTo(x, y);
    context.lineTo(x - 4, y);
    if (last - y > 12) { context.fillText(label, x - 7, y); last = y; }
  }
  context.stroke();
  context.fillStyle = ink;
  context.textAlign = "left";
  context.fillText(loss() ? "loss (nats)" : "accuracy", Math.max(x - 34, 2), top - 12);
}

function prepare(canvas) {
  const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

function drawLines(panel) {
  // Loss or accuracy along one direction, or between two models.
  const { canvas, quantity } = panel, context = prepare(canvas), { axis, grids } = group(), range = panel.range;
  const [left, right, top, bottom] = [52, canvas.clientWidth - 14, 14, canvas.clientHeight - 38];
  const [first, last] = [axis[0], axis[axis.length - 1]];
  const x = (value) => left + (value - first) / (last - first) * (right - left), y = (value) => bottom - range.at(value) * (bottom - top);
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "middle";
  let seen = Infinity;
  for (const [tick, label] of range.ticks) {
    context.strokeStyle = style("--faint");
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(left, y(tick));
    context.lineTo(right, y(tick));
    context.stroke();
    context.fillStyle = style("--soft");
    context.textAlign = "right";
    if (seen - y(tick) > 12) { context.fillText(label, left - 6, y(tick)); seen = y(tick); }
  }
  context.textAlign = "center";
  for (const value of [0, 0.25, 0.5, 0.75, 1].map((share) => first + (last - first) * share)) context.fillText(number(value), x(value), bottom + 13);
  context.fillText(group().along, (left + right) / 2, bottom + 30);
  panel.spots = [];
  for (const grid of grids) {
    context.strokeStyle = context.fillStyle = style(`--c${grid.series}`);
    context.lineWidth = 1.8;
    context.beginPath();
    let open = false;
    grid[quantity].forEach((value, index) => {
      if (value === null) { open = false; return; }
      const [px, py] = [x(axis[index]), y(value)];
      panel.spots.push([px, py, grid, index]);
      if (open) context.lineTo(px, py); else context.moveTo(px, py);
      open = true;
    });
    context.stroke();
  }
}

function rebuild() {
  document.getElementById("title").textContent = group().title;
  const spot = document.getElementById("panels");
  spot.replaceChildren();
  panels = group().view === "plane" ? group().grids.map((grid) => {
    const canvas = make("canvas", { tabindex: 0, role: "img" });
    spot.append(make("section", { class: "panel" }, make("h3", {}, grid.precision, make("small", {}, grid.note)), canvas));
    listen(canvas);
    return { canvas, grid };
  }) : ["loss", "accuracy"].map((quantity) => {
    const canvas = make("canvas", { class: "line", role: "img", "aria-label": `${quantity} along the line` });
    spot.append(make("section", { class: "panel" }, make("h3", {}, quantity === "loss" ? "Training loss (nats)" : "Training accuracy"), canvas));
    canvas.addEventListener("pointermove", (event) => point(event, canvas));
    canvas.addEventListener("pointerleave", hide);
    return { canvas, quantity };
  });
  refresh();
}

function refresh() {
  const plane = group().view === "plane", before = state.quantity;
  for (const panel of panels) {
    if (!plane) state.quantity = panel.quantity;
    panel.range = rangeOf(group().grids);
    if (plane) panel.surface = surfaceOf(panel.grid, panel.range);
  }
  state.quantity = before;
  drawLegend();
  draw();
}

let waiting = false;
function draw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    for (const panel of panels) {
      panel.canvas.style.height = `${Math.round(Math.min(panel.canvas.clientWidth * (group().view === "plane" ? 0.86 : 0.66), 520))}px`;
      if (group().view === "plane") drawSurface(panel); else drawLines(panel);
    }
    document.documentElement.dataset.drawn = String(Number(document.documentElement.dataset.drawn || 0) + 1);
  });
}

function drawLegend() {
  const spot = document.getElementById("legend");
  spot.replaceChildren();
  if (group().view !== "plane") {
    for (const grid of group().grids) {
      const bar = make("i", {});
      bar.style.background = `var(--c${grid.series})`;
      spot.append(make("span", { class: "key" }, bar, `${grid.precision} `));
    }
    return;
  }
  const canvas = make("canvas", { role: "img", "aria-label": "Colour scale" });
  spot.append(canvas);
  const context = prepare(canvas), width = canvas.clientWidth - 36, { range } = panels[0];
  for (let step = 0; step < width; step += 1) {
    context.fillStyle = colour(step / width);
    context.fillRect(18 + step, 4, 1.5, 10);
  }
  context.fillStyle = style("--soft");
  context.font = "11px system-ui, sans-serif";
  context.textAlign = "center";
  let last = -Infinity;
  for (const [tick, label] of range.ticks) {
    const x = 18 + range.at(tick) * width;
    if (x - last > 30) { context.fillText(label, x, 26); context.fillRect(x - 0.5, 14, 1, 3); last = x; }
  }
  context.fillText(loss() ? "mean cross-entropy (nats)" : "training accuracy", 18 + width / 2, 42);
}

function listen(canvas) {
  let held = null;
  canvas.addEventListener("pointerdown", (event) => {
    held = [event.clientX, event.clientY];
    canvas.setPointerCapture(event.pointerId);
    canvas.focus({ preventScroll: true });
    hide();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!held) { if (event.pointerType === "mouse") point(event, canvas); return; }
    state.moving = true;
    look((event.clientX - held[0]) * 0.009, event.pointerType === "mouse" ? (event.clientY - held[1]) * 0.007 : 0, 1);
    held = [event.clientX, event.clientY];
  });
  const release = (event) => {
    if (held && !state.moving && event.type === "pointerup") point(event, canvas);
    held = null;
    state.moving = false;
    draw();
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", hide);
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && document.activeElement !== canvas) return;
    event.preventDefault();
    look(0, 0, Math.exp(-event.deltaY * 0.0015));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-0.1, 0, 1], ArrowRight: [0.1, 0, 1], ArrowUp: [0, -0.08, 1], ArrowDown: [0, 0.08, 1], "+": [0, 0, 1.15], "=": [0, 0, 1.15], "-": [0, 0, 1 / 1.15] };
    if (!moves[event.key] || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    look(...moves[event.key]);
  });
}

function look(turn, tilt, zoom) {
  const { camera } = state;
  camera.turn += turn;
  camera.tilt = Math.min(Math.max(camera.tilt + tilt, 0.06), Math.PI / 2);
  camera.zoom = Math.min(Math.max(camera.zoom * zoom, 0.5), 6);
  draw();
}

function point(event, canvas) {
  // What stands under the pointer: the nearest point of the grid, the one in front where several are near.
  const panel = panels.find((one) => one.canvas === canvas), box = canvas.getBoundingClientRect();
  const [mx, my] = [event.clientX - box.left, event.clientY - box.top];
  let best = null, grid = panel.grid, index = -1;
  if (panel.spots) {
    for (const [x, y, one, place] of panel.spots) {
      const far = Math.hypot(x - mx, y - my);
      if (far < 24 && (best === null || far < best)) { best = far; grid = one; index = place; }
    }
  } else {
    const n = group().points, unit = 2 / (n - 1), project = projection(canvas), { heights } = panel.surface, reach = Math.max(12, canvas.clientWidth / n / 1.6);
    for (let place = 0; place < n * n; place += 1) {
      const [x, y, away] = project(Math.floor(place / n) * unit - 1, (place % n) * unit - 1, heights[place]), far = Math.hypot(x - mx, y - my);
      if (far < reach && (best === null || far + away * reach < best)) { best = far + away * reach; index = place; }
    }
  }
  if (index < 0) { hide(); return; }
  const { axis, view, points } = group(), tip = document.getElementById("tip");
  const place = view === "plane" ? `x ${number(axis[Math.floor(index / points)])}, y ${number(axis[index % points])}` : `x ${number(axis[index])}`;
  tip.textContent = `${grid.precision}: ${place}\nloss ${number(grid.loss[index], 4)} nats\naccuracy ${number(100 * grid.accuracy[index], 4)}%`;
  tip.style.visibility = "visible";
  tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
  tip.style.top = `${Math.max(event.clientY - tip.offsetHeight - 10, 6)}px`;
}

function hide() { document.getElementById("tip").style.visibility = "hidden"; }

function choice(key, options, then) {
  const buttons = options.map(([value, label]) => {
    const button = make("button", { type: "button", "aria-pressed": String(state[key] === value) }, label);
    button.addEventListener("click", () => {
      state[key] = value;
      buttons.forEach((one) => one.setAttribute("aria-pressed", String(one === button)));
      then();
    });
    return button;
  });
  return make("span", { class: "group" }, ...buttons);
}

function controls() {
  const bar = document.getElementById("controls"), theme = document.getElementById("theme"), add = (...nodes) => theme.before(...nodes);
  if (DATA.groups.length > 1) {
    const select = make("select", {}, ...DATA.groups.map((one, index) => make("option", { value: index }, one.title)));
    select.addEventListener("change", () => { state.chosen = Number(select.value); rebuild(); });
    add(make("label", {}, "Models", select));
  }
  if (DATA.groups[0].view === "plane") add(choice("quantity", [["loss", "Loss"], ["accuracy", "Accuracy"]], refresh));
  add(choice("scale", [["log", "Log"], ["linear", "Linear"]], refresh));
  if (DATA.groups[0].view === "plane") {
    const act = (label, title, then) => {
      const button = make("button", { type: "button", title }, label);
      button.addEventListener("click", () => { then(); draw(); });
      return button;
    };
    add(make("span", { class: "group" }, act("−", "Zoom out", () => look(0, 0, 1 / 1.2)), act("+", "Zoom in", () => look(0, 0, 1.2))),
      make("span", { class: "group" }, act("Side", "Look from the side", () => { state.camera.tilt = 0.2; }),
        act("Above", "Look from above, as a map", () => { Object.assign(state.camera, { tilt: Math.PI / 2, turn: 0 }); }),
        act("Reset", "The first view", () => { Object.assign(state.camera, START); })));
  }
  const root = document.documentElement, preferred = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : preferred.matches);
  const name = () => { theme.textContent = dark() ? "Light" : "Dark"; };
  theme.hidden = false;
  theme.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; name(); drawLegend(); draw(); });
  preferred.addEventListener("change", () => { name(); drawLegend(); draw(); });
  name();
  bar.hidden = false;
}

controls();
rebuild();
let width = innerWidth;
window.addEventListener("resize", () => { if (width !== innerWidth) { width = innerWidth; drawLegend(); draw(); } });
document.documentElement.dataset.ready = "true";
