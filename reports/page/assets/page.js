"use strict";
// Tables that sort and filter, numbers that lead to their jobs, the theme.
const DATA = JSON.parse(document.getElementById("data").textContent);

const html = (name, attributes, ...children) => {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  node.append(...children);
  return node;
};

function cellOf(column, row) {
  const value = column.values ? column.values[column.codes[row]] : column.numbers[row];
  return value === null || value === undefined ? null : value;
}

function aligned(value, column) {
  // One number of decimals a column, so that its points stand below each other; what would show as 0 stands as it is.
  if (value === null) return "–";
  const text = (value * column.factor).toFixed(column.decimals);
  return value !== 0 && Number(text) === 0 ? number(value * column.factor, 3) : text.replace("-", "−");
}

function describe(row) {
  const jobs = DATA.jobs[DATA.kind];
  const settings = jobs.columns.filter((one) => one.setting).map((one) => `${one.label} ${cellOf(one, row)}`);
  return `${jobs.ids[row].slice(0, 12)}\n${settings.join(", ")}`;
}

function members(set) {
  // [first, length, gap, length, …]: runs of row numbers; of a set that is not here whole {rows: such runs, of: its size}.
  const rows = [], runs = set.rows ?? set;
  let next = 0;
  for (let index = 0; index < runs.length; index += 2) {
    next += runs[index];
    for (let count = 0; count < runs[index + 1]; count += 1) rows.push(next++);
  }
  return rows;
}

const LIST = { show() {} };  // what is open of jobs
document.addEventListener("held", () => LIST.show());
// Jobs that are held to be compared, whatever list or plot they were found in.
const HELD = { kind: "", ids: [] }, MOST_HELD = 4;
function hold(kind, ids) {
  Object.assign(HELD, { kind, ids });
  document.querySelectorAll("input[data-held]").forEach((one) => { one.checked = one.dataset.kind === kind && ids.includes(one.dataset.held); });
  document.dispatchEvent(new Event("held"));
}
function holder(kind, id) {
  const box = html("input", { type: "checkbox", "aria-label": `Compare ${id.slice(0, 12)}`, "data-held": id, "data-kind": kind });
  box.checked = HELD.kind === kind && HELD.ids.includes(id);
  box.addEventListener("change", () => {
    const rest = HELD.kind === kind ? HELD.ids.filter((one) => one !== id) : [];
    hold(kind, box.checked ? [...rest, id].slice(-MOST_HELD) : rest);
  });
  return box;
}

function beside(heads, rows) {
  // What several say of the same things: [[name, [text, …]]]. What differs is marked, and may stand alone.
  const differ = rows.map(([, texts]) => texts.length > 1 && new Set(texts).size > 1);
  const body = rows.map(([name, texts], index) => html("tr", differ[index] ? { class: "differs" } : {}, html("th", { scope: "row" }, name), ...texts.map((one) => html("td", {}, one))));
  const table = html("table", { class: "beside" }, html("thead", {}, html("tr", {}, html("th", { scope: "col" }, html("span", {}, "Name")), ...heads.map((one) => html("th", { scope: "col", class: "id" }, html("span", {}, one))))), html("tbody", {}, ...body));
  const scroll = html("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": heads.length > 1 ? "Comparison" : "Settings and results" }, table);
  watchEdges(scroll);
  if (heads.length < 2) return [scroll];
  const only = html("input", { type: "checkbox" }), count = differ.filter(Boolean).length;
  only.addEventListener("change", () => body.forEach((row, index) => { row.hidden = only.checked && !differ[index]; }));
  return [html("div", { class: "tools" }, html("label", {}, only, " Only what differs"), html("span", { role: "status" }, `${count} of ${rows.length} differ`)), scroll];
}

function heldBeside(jobs, kind) {
  // The comparison of those jobs of this list that are held; nothing for fewer than two.
  const rows = HELD.kind === kind ? HELD.ids.map((id) => jobs.ids.indexOf(id)).filter((row) => row >= 0) : [];
  if (rows.length < 2) return [];
  const columns = jobs.columns.filter((one) => rows.some((row) => cellOf(one, row) !== null));
  const text = (one, row) => one.values || one.setting ? String(cellOf(one, row) ?? "–") : aligned(cellOf(one, row), one);
  return beside(rows.map((row) => jobs.ids[row].slice(0, 12)), columns.map((one) => [one.label, rows.map((row) => text(one, row))]));
}

function showJobs(title, kind, rows, sortBy, of) {
  const jobs = DATA.jobs[kind], dialog = document.getElementById("jobs");
  const columns = jobs.columns.filter((one) => rows.some((row) => cellOf(one, row) !== null));
  const head = html("tr", {}, ...["job", ...columns.map((one) => one.label)].map((label, index) => {
    const numeric = index > 0 && !columns[index - 1].values;
    return html("th", numeric ? { class: "n", scope: "col" } : { scope: "col" }, html("button", { type: "button" }, label));
  }));
  const body = html("tbody", {}, ...rows.map((row) => html("tr", {}, html("td", { class: "id", title: jobs.ids[row] }, holder(kind, jobs.ids[row]), jobs.ids[row].slice(0, 12)),
    ...columns.map((one) => {
      const value = cellOf(one, row);
      if (one.values) return html("td", {}, value === null ? "–" : String(value));
      return html("td", { class: "n", "data-v": value === null ? "" : value }, one.setting ? String(value ?? "–") : aligned(value, one));
    }))));
  const table = html("table", { class: "sortable" }, html("thead", {}, head), body);
  const spot = document.getElementById("jobs-body");
  const jobsOf = (many) => many === 1 ? "1 job" : `${many} jobs`;
  const count = of ? `${rows.length} of ${jobsOf(of)}, a random sample` : jobsOf(rows.length);
  document.getElementById("jobs-title").textContent = `${title} — ${count}`;
  const hint = html("p", { class: "note" }, "Full history of a job: ", html("code", {}, `qsweep show ${jobs.ids[rows[0]].slice(0, 12)}`));
  const list = html("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Jobs" }, table), compared = html("div", {});
  LIST.show = () => compared.replaceChildren(...heldBeside(jobs, kind));
  LIST.show();
  spot.replaceChildren(...(rows.length > 8 ? [filterOf(table)] : []), list, html("p", { class: "note" }, "Tick two to four jobs, here or in other lists, to compare them."), compared, hint);
  watchEdges(list);
  makeSortable(table);
  const index = columns.findIndex((one) => one.name === sortBy);
  if (index >= 0) table.querySelectorAll("thead button")[index + 1].click();
  if (!dialog.open) dialog.showModal();
}

function keyOf(cell) {
  const given = cell.dataset.v;
  if (given !== undefined) return given === "" ? null : Number(given);
  const text = cell.textContent.trim();
  return text === "" || text === "–" ? null : text;
}

function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, index) => head.querySelector("button")?.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((one) => one.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows].map((row) => [keyOf(row.cells[index]), row]);
    const order = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
    rows.sort(([a], [b]) => a === null || b === null ? (a === null) - (b === null) : (down ? -1 : 1) * order(a, b));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }));
}

function filterOf(table) {
  const input = html("input", { type: "search", placeholder: "Filter rows", "aria-label": "Filter rows" });
  const count = html("span", { role: "status" });
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
      shown += !row.hidden;
    }
    count.textContent = words.length ? `${shown} of ${table.tBodies[0].rows.length} rows` : "";
  });
  return html("div", { class: "tools" }, input, count);
}

function theme() {
  const root = document.documentElement, button = document.getElementById("theme");
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const name = () => { button.textContent = dark() ? "Light" : "Dark"; };
  button.hidden = false;
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; name(); });
  name();
}

document.addEventListener("click", (event) => {
  const cell = event.target.closest("button.cell");
  const set = cell && DATA.sets[cell.dataset.set];
  if (cell) showJobs(cell.dataset.title, cell.dataset.kind, members(set), cell.dataset.by, set.of);
});
document.getElementById("jobs").addEventListener("click", (event) => {
  if (event.target.id === "jobs" || event.target.id === "jobs-close") document.getElementById("jobs").close();
});
// Tables that are wider than their box, and the sections' names, say so at the edge where they go on.
const edges = (box) => {
  const more = box.scrollWidth - box.clientWidth;
  box.classList.toggle("before", box.scrollLeft > 2);
  box.classList.toggle("after", more - box.scrollLeft > 2);
};
const watchEdges = (box) => {
  box.addEventListener("scroll", () => edges(box), { passive: true });
  new ResizeObserver(() => edges(box)).observe(box);
};
function prepare(root) {
  root.querySelectorAll("table.sortable").forEach((table) => {
    makeSortable(table);
    if (table.tBodies[0].rows.length > 8) table.closest(".scroll").before(filterOf(table));
  });
  root.querySelectorAll(".scroll, nav > div").forEach(watchEdges);
  root.querySelectorAll("[data-chart]").forEach(setUp);
  root.querySelectorAll("[data-parallel]").forEach((place) => {
    const kind = place.dataset.parallel;
    explore(place, DATA.jobs[kind], { kind, sample: true, pick: (row) => showJobs("One job", kind, [row], null) });
  });
}
prepare(document);
theme();
document.documentElement.dataset.ready = "true";
