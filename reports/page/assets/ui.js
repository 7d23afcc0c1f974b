"use strict";
// The live page: draws what the server sends, once as it is loaded and again whenever something has changed.
// Texts come from anywhere: they are put in as text, never as markup.
const MAIN = document.getElementById("main"), LIVE = DATA.live, ASKED = LIVE.asked;
const query = (values) => new URLSearchParams(values).toString();
const link = (path, values, ...children) => html("a", { href: `${path}?${query(values)}` }, ...children);
const box = (id, ...children) => html("section", { id, "aria-live": "off" }, ...children);
const count = (value) => (value ?? 0).toLocaleString("en");
const short = (identity) => identity.slice(0, 12);
const clock = (seconds) => seconds ? new Date(seconds * 1000).toISOString().slice(0, 19).replace("T", " ") : "–";
const value = (one) => typeof one === "number" ? (Number.isInteger(one) ? String(one).replace("-", "−") : number(one, 6)) : one === null || one === undefined ? "–" : Array.isArray(one) ? one.join(", ") : typeof one === "object" ? JSON.stringify(one) : String(one);
const lasting = (seconds) => {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]]) if (seconds >= size) return `${(seconds / size).toFixed(1)} ${unit}`;
  return `${Math.max(0, Math.round(seconds))} s`;
};

async function ask(path, values = {}, posted) {
  // The answer of the server, and the number of the moment that it is of. Its words where it has none.
  const options = posted ? { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(posted) } : {};
  const answer = await fetch(posted ? path : `${path}?${query(values)}`, options), text = await answer.text();
  if (answer.ok) return { content: posted && posted.format ? text : JSON.parse(text), number: Number(answer.headers.get("Qsweep-Number")) };
  let words = text;
  try { words = JSON.parse(text).problem || text; } catch { /* it was no JSON: its text is said */ }
  throw new Error(words);
}

function table(caption, heads, rows, tall) {
  // heads: [[name, numeric]]; rows: [[cell]] of nodes, texts, or [sort, text].
  const body = rows.map((row) => html("tr", {}, ...row.map((cell, index) => {
    const numeric = heads[index][1], sorts = Array.isArray(cell);
    const made = html("td", numeric ? { class: "n" } : {}, sorts ? cell[1] : cell);
    if (sorts) made.dataset.v = cell[0] ?? "";
    return made;
  })));
  const head = html("tr", {}, ...heads.map(([name, numeric]) => html("th", { scope: "col", ...(numeric ? { class: "n" } : {}) }, html("button", { type: "button" }, name))));
  const made = html("table", { class: "sortable" }, html("thead", {}, head), html("tbody", {}, ...body));
  const scroll = html("div", { class: tall ? "scroll tall" : "scroll", tabindex: "0", role: "region", "aria-label": caption }, made);
  makeSortable(made);
  watchEdges(scroll);
  return scroll;
}

function replace(id, ...children) {
  // What stands in a section, drawn anew; how it is sorted and scrolled stays.
  const spot = document.getElementById(id), old = spot.querySelector("table.sortable");
  const heads = old ? [...old.tHead.rows[0].cells] : [], by = heads.findIndex((one) => one.hasAttribute("aria-sort"));
  const down = by >= 0 && heads[by].getAttribute("aria-sort") === "descending", before = spot.querySelector(".scroll"), at = before ? [before.scrollLeft, before.scrollTop] : null;
  spot.replaceChildren(...children);
  const button = by >= 0 ? spot.querySelectorAll("table.sortable thead button")[by] : null;
  if (button) { button.click(); if (down) button.click(); }
  const after = spot.querySelector(".scroll");
  if (at && after) [after.scrollLeft, after.scrollTop] = at;
}

const STATES = ["done", "running", "failed", "cancelled", "queued"];
function meter(row) {
  const whole = Math.max(row.size || 0, STATES.reduce((sum, one) => sum + (row[one] || 0), 0), 1);
  const image = svg("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img", "aria-label": STATES.filter((one) => row[one]).map((one) => `${count(row[one])} ${one}`).join(", ") || "no jobs yet" });
  let left = 0;
  for (const state of STATES) {
    const share = 100 * (row[state] || 0) / whole;
    if (share) svg("rect", { x: left, y: 0, width: share, height: 10, class: `state-${state}` }, image);
    left += share;
  }
  const bar = html("div", { class: "meter" });
  bar.append(image);
  return bar;
}
const facts = (pairs) => html("dl", { class: "facts" }, ...pairs.map(([name, text]) => html("div", {}, html("dt", {}, name), html("dd", {}, text))));
const remarks = (lines) => lines && lines.length ? [html("ul", { class: "remarks" }, ...lines.map((one) => html("li", {}, one)))] : [];
function head(heading, lead) {
  document.getElementById("heading").textContent = heading;
  document.getElementById("lead").replaceChildren(...[].concat(lead));
}

function figure(name, chart, caption, chosen) {
  // Named so that no chart of a report has its name.
  DATA.charts[`live-${name}`] = chart;
  const made = html("figure", { "data-chart": `live-${name}` }, html("div", { class: "bar" }), html("div", { class: "plots" }), html("figcaption", {}, caption));
  setUp(made);
  if (chosen > 0 && made.querySelector("select")) made.querySelector("select").selectedIndex = chosen;
  return made;
}

const PAGES = {
  home: {
    make: () => [box("sweeps"), box("more")],
    draw(content) {
      head("Sweeps", [html("span", { class: "id" }, content.place), ` · ${count(content.agents)} ${content.agents === 1 ? "agent" : "agents"} on ${count(content.machines)} ${content.machines === 1 ? "machine" : "machines"}`]);
      const rows = content.sweeps.map((one) => {
        const name = html("div", {}, link("/sweep", { name: one.name }, one.heading), html("small", {}, one.name));
        return [[one.launched_at, name], one.state, [one.done / Math.max(one.size, 1), meter(one)], [one.done, `${count(one.done)} of ${count(one.size)}`], [one.running, count(one.running)], [one.failed, count(one.failed)],
          [one.jobs_per_minute ?? "", one.jobs_per_minute === undefined ? "–" : number(one.jobs_per_minute)], [one.seconds_left ?? "", one.seconds_left === undefined ? "–" : lasting(one.seconds_left)], [one.launched_at, clock(one.launched_at)]];
      });
      const heads = [["Sweep"], ["State"], ["Progress"], ["Done", true], ["Running", true], ["Failed", true], ["Jobs a minute", true], ["Time left", true], ["Launched (UTC)"]];
      const made = rows.length ? table("Sweeps", heads, rows) : html("p", {}, "No sweep was launched here yet: ", html("code", {}, "qsweep launch digits-grid"));
      made.classList.add("sheet");
      made.querySelectorAll("tbody td:first-child").forEach((one) => one.classList.add("name"));
      replace("sweeps", made);
      replace("more", ...remarks([...content.remarks, ...content.sweeps.flatMap((one) => one.words)]));
    },
  },

  sweep: {
    parts: ["jobs", "report"],
    make() {
      const where = html("input", { type: "search", class: "where", placeholder: "--where: bits == 2 and width > 8", "aria-label": "Only the jobs of this condition, as --where has it", spellcheck: "false" });
      const apply = html("button", { type: "button" }, "Apply");
      apply.addEventListener("click", () => SWEEP.filter(where.value.trim()));
      where.addEventListener("keydown", (event) => { if (event.key === "Enter") SWEEP.filter(where.value.trim()); });
      const kinds = html("select", { id: "kinds", "aria-label": "Kind of jobs", hidden: "" });
      kinds.addEventListener("change", () => SWEEP.draw());
      return [box("acts"), box("now"), html("h2", { id: "every" }, "Jobs"), html("div", { class: "tools" }, kinds, where, apply, html("span", { id: "matched", role: "status" })), html("p", { class: "problem", id: "refused", role: "alert", hidden: "" }),
        html("div", { class: "explore", id: "explore-live", hidden: "" }), box("selected"), box("list"), box("report", html("h2", {}, "Report"), html("p", { class: "note" }, "The report is being made …"))];
    },
    draw(content) {
      head(content.heading, [html("span", { class: "id" }, content.name), ` · ${content.state} · `, link("/report", { name: content.name }, "the report alone")]);
      const left = content.told === "paused" ? "paused" : lasting(content.seconds_left);
      const shown = [["Done", `${count(content.done)} of ${count(content.size)}`], ["Running", count(content.running)], ["Queued", count(content.queued)], ["Failed", count(content.failed)], ["Diverged", count(content.diverged)]];
      if (content.lost) shown.push(["Lost", count(content.lost)]);
      if (content.blocked) shown.push(["Blocked", count(content.blocked)]);
      if (content.queued + content.running) shown.push(["Jobs a minute", number(content.jobs_per_minute)], ["Time left", left]);
      if (content.agents.length) shown.push(["Agents", count(content.agents.length)]);
      const parts = [facts(shown), meter(content), ...remarks(content.words)];
      if (content.falls) parts.push(figure("falls", content.falls, "Trainings that are not done, by what they are called (how many they are): mean of each epoch."));
      if (content.recent.length) {
        const rows = content.recent.map((one) => [clock(one.at), link("/job", { id: one.job }, short(one.job)), `${one.source} → ${one.target}`, (one.detail || "").split("\n")[0].slice(0, 160)]);
        parts.push(html("details", { class: "more", id: "changes", ...(document.getElementById("changes")?.open ? { open: "" } : {}) }, html("summary", {}, `The last ${content.recent.length} changes`), table("The last changes", [["At (UTC)"], ["Job"], ["Change"], ["What was said"]], rows, true)));
      }
      const scroll = scrollY;
      document.getElementById("now").replaceChildren(...parts);
      scrollTo({ top: scroll, behavior: "instant" });
      if (LIVE.acts) acts(content.name);
    },
    drawPart(part, content) { if (part === "jobs") SWEEP.take(content); else SWEEP.report(content); },
    failPart(part, error) {
      if (part === "report") document.getElementById("report").replaceChildren(html("h2", {}, "Report"), html("p", { class: "note" }, `There is no report of it: ${error.message}`));
      else replace("list", html("p", { class: "problem" }, error.message));
    },
  },

  job: {
    parts: ["log", "compared"],
    make() {
      const other = html("input", { type: "search", placeholder: "Compare with job …", "aria-label": "Compare with another job", value: ASKED.with || "" });
      other.addEventListener("keydown", (event) => { if (event.key === "Enter") location.search = query({ ...ASKED, with: other.value.trim() }); });
      return [box("life"), html("h2", {}, "Settings and results"), html("div", { class: "tools" }, other), box("settings"), box("epochs"), html("h2", {}, "Attempts"), box("attempts"), html("h2", {}, "Log"), box("log")];
    },
    async draw(content) {
      const job = content.job;
      head(`Job ${short(job.identity)}`, [html("span", { class: "id" }, job.identity)]);
      replace("life", facts([["State", job.lost ? "lost" : job.state], ["Kind", job.kind], ["Attempt", value(job.attempt)], ["Epoch", value(job.epoch)], ...(job.failure_class ? [["Failure", job.failure_class]] : []), ...(job.diverged ? [["Diverged", "yes"]] : [])]),
        ...(job.error ? [html("pre", { tabindex: "0", role: "region", "aria-label": "Error" }, job.error)] : []), ...(content.model ? [html("p", { class: "note" }, "Model: ", html("code", {}, content.model))] : []));
      let second = null, problem = [];
      if (ASKED.with) try { second = (await ask("/data/job", { id: ASKED.with })).content; } catch (error) { problem = [html("p", { class: "problem" }, error.message)]; }
      const both = [content, ...(second ? [second] : [])];
      const rows = ["settings", "results"].flatMap((part) => Object.keys(Object.assign({}, ...both.map((one) => one[part]))).filter((name) => name !== "job").map((name) => [name.replaceAll("_", " "), both.map((one) => (name.endsWith("_at") ? clock : value)(one[part][name]))]));
      const kept = document.querySelector("#settings .tools input")?.checked;
      replace("settings", ...problem, ...beside(both.map((one) => short(one.job.identity)), rows));
      if (kept) document.querySelector("#settings .tools input")?.click();
      const attempts = content.attempts.map((one) => [[one.attempt, String(one.attempt)], value(one.outcome ?? (job.lost ? "lost" : "running")), value(one.failure_class), value(one.host), value(one.device), clock(one.started_at), one.ended_at ? lasting(one.ended_at - one.started_at) : "–", (one.error || "").trim().split("\n").pop().slice(0, 200)]);
      const events = content.events.map((one) => [clock(one.at), `${one.source} → ${one.target}`, value(one.attempt), (one.detail || "").split("\n")[0].slice(0, 200)]);
      replace("attempts", table("Attempts", [["Attempt", true], ["Ended"], ["Failure"], ["Host"], ["Device"], ["Began (UTC)"], ["Took", true], ["Last error"]], attempts),
        html("details", { class: "more", ...(document.querySelector("#attempts details")?.open ? { open: "" } : {}) }, html("summary", {}, `Its ${events.length} events`), table("Events", [["At (UTC)"], ["Change"], ["Attempt"], ["What was said"]], events, true)));
    },
    drawPart(part, content) {
      if (part === "compared") {
        replace("epochs", ...(content.chart ? [html("h2", {}, "Curves"), figure("compared", content.chart, "This job against others of its sweep, of which the median and the band from the 10th to the 90th percentile are drawn (of many, a random sample).")] : []));
        return;
      }
      if (content.problem) { replace("log", html("p", { class: "note" }, content.problem)); return; }
      const old = document.querySelector("#log pre"), ends = !old || old.scrollTop + old.clientHeight > old.scrollHeight - 30, at = old ? old.scrollTop : 0;
      const text = html("pre", { class: "log", tabindex: "0", role: "region", "aria-label": "Log" }, content.text);
      document.getElementById("log").replaceChildren(html("p", { class: "note" }, html("code", {}, content.log)), text);
      text.scrollTop = ends ? text.scrollHeight : at;
    },
    failPart(part, error) { replace({ log: "log", compared: "epochs" }[part], html("p", { class: "note" }, error.message)); },
  },

  agents: {
    make: () => [box("living"), box("loads"), box("ended")],
    draw(content) {
      const hosts = new Set(content.agents.filter((one) => !one.lost).map((one) => one.host));
      head("Agents", `${count(content.agents.filter((one) => !one.lost).length)} at work on ${count(hosts.size)} ${hosts.size === 1 ? "machine" : "machines"}`);
      const rows = content.agents.map((one) => [[one.id, String(one.id)], value(one.host), value(one.device), value(one.backend), one.lost ? "gone" : one.cohort ? `${count(one.jobs)} × ${one.cohort}` : one.held ? `begins with ${count(one.held)} jobs` : "waits for jobs",
        [one.steps ? one.step / one.steps : "", one.steps ? `${Math.round(100 * one.step / one.steps)}%` : "–"], [one.held, count(one.held)], [one.processor ?? "", number(one.processor)], [one.memory ?? "", one.memory ? `${number(one.memory / 1e9)} GB` : "–"], [one.beat_at, clock(one.beat_at)], [one.enlisted_at, clock(one.enlisted_at)]]);
      const made = rows.length ? table("Agents at work", [["Agent", true], ["Host"], ["Device"], ["Backend"], ["At work on"], ["Done of it", true], ["Jobs", true], ["Processors", true], ["Memory", true], ["Heartbeat (UTC)"], ["Since (UTC)"]], rows) : html("p", {}, "No agent is at work.");
      made.classList.add("wide");
      replace("living", made);
      const chosen = document.querySelector("#loads select")?.selectedIndex;
      replace("loads", ...(content.loads ? [html("h2", {}, rows.length ? "What they use" : "What those used that ended last"), figure("loads", content.loads, "Processors that an agent and the processes below it keep busy, and the memory that they hold; of a GPU the share of the time in which it had work, and what the agent holds on it. Read with its heartbeats.", chosen)] : []));
      replace("ended", ...(content.stopped.length ? [html("h2", {}, "Stopped last"), table("Agents that stopped", [["Agent", true], ["Host"], ["Device"], ["Ended (UTC)"], ["Why"]], content.stopped.map((one) => [[one.id, String(one.id)], value(one.host), value(one.device), clock(one.ended_at), value(one.reason)]))] : []));
    },
  },

  sql: {
    make() {
      const text = html("textarea", { id: "sql-text", "aria-label": "SQL", spellcheck: "false" });
      text.value = "SELECT bits, count(*) AS models, avg(generalization_gap) AS gap\nFROM runs GROUP BY bits ORDER BY bits";
      const run = html("button", { type: "button" }, "Run (Ctrl-Enter)"), files = ["csv", "json"].map((form) => [form, html("button", { type: "button" }, `As ${form.toUpperCase()}`)]);
      const answer = async () => {
        run.disabled = true;
        try { showAnswer((await ask("/data/sql", {}, { sql: text.value })).content); } catch (error) { document.getElementById("answer").replaceChildren(html("p", { class: "problem", role: "alert" }, error.message)); }
        run.disabled = false;
      };
      run.addEventListener("click", answer);
      text.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); answer(); } });
      for (const [form, button] of files) button.addEventListener("click", async () => {
        try {
          const content = (await ask("/data/sql", {}, { sql: text.value, format: form })).content, url = URL.createObjectURL(new Blob([content]));
          const made = html("a", { href: url, download: `query.${form}` });
          made.click();
          URL.revokeObjectURL(url);
        } catch (error) { document.getElementById("answer").replaceChildren(html("p", { class: "problem", role: "alert" }, error.message)); }
      });
      return [text, html("div", { class: "tools" }, run, ...files.map(([, button]) => button)), box("answer"), html("h2", {}, "What it may name"), box("schema")];
    },
    draw(content) {
      head("SQL", `One SELECT in DuckDB’s dialect. It reads these views and nothing else, for at most ${content.seconds} s, and answers up to ${count(content.rows)} rows.`);
      const views = new Map();
      for (const row of content.columns) views.set(row.view, [...(views.get(row.view) || []), row]);
      if (document.querySelector("#schema details")) return;
      document.getElementById("schema").replaceChildren(...[...views].map(([name, rows]) => html("details", { class: "schema" }, html("summary", {}, html("code", {}, name), ` · ${rows.length} columns`), table(`Columns of ${name}`, [["Column"], ["Type"], ["Meaning"]], rows.map((one) => [one.column, one.type, one.meaning]), true))));
    },
  },
};

function showAnswer(content) {
  const numeric = content.numeric;
  const rows = content.rows.map((row) => row.map((one, index) => numeric[index] ? [one ?? "", value(one)] : value(one)));
  const parts = [html("p", { class: "note", role: "status" }, `${count(rows.length)} ${rows.length === 1 ? "row" : "rows"}`), ...remarks(content.notes), table("Answer", content.columns.map((one, index) => [one.name, numeric[index]]), rows, rows.length > 24)];
  if (content.chart) parts.splice(1, 0, figure("answer", content.chart, "The last number of each row."));
  document.getElementById("answer").replaceChildren(...parts);
}

const MOST_CURVES = 200, FEW_CURVES = 8;
const SWEEP = {
  jobs: null, rows: [], wanted: "", among: null, brushed: null, chart: null, order: null, page: 0, size: 50,
  kind() { const chosen = document.getElementById("kinds").value; return this.jobs[chosen] ? chosen : Object.keys(this.jobs)[0]; },
  take(content) {
    this.jobs = content.jobs;
    const kinds = Object.keys(this.jobs), select = document.getElementById("kinds"), kept = select.value;
    select.replaceChildren(...kinds.map((one) => new Option(one)));
    if (kinds.includes(kept)) select.value = kept;
    select.hidden = kinds.length < 2;
    this.draw();
  },
  draw() {
    const kind = this.kind();
    if (!kind) { replace("list", html("p", {}, "No job is registered yet.")); return; }
    const jobs = this.jobs[kind], spot = document.getElementById("explore-live");
    if (this.chart) this.chart.show(jobs);
    else this.chart = explore(spot, jobs, { kind: "live", pick: (row) => { location.href = `/job?${query({ id: this.jobs[this.kind()].ids[row] })}`; }, changed: (set) => { this.brushed = set; this.page = 0; this.list(); } });
    this.list();
  },
  async filter(where) {
    const refused = document.getElementById("refused");
    refused.hidden = true;
    try { this.among = where ? new Set((await ask("/data/where", { name: ASKED.name, where })).content) : null; } catch (error) { refused.textContent = error.message; refused.hidden = false; return; }
    this.page = 0;
    this.chart?.among(this.among);
    this.list();
  },
  list() {
    const jobs = this.jobs[this.kind()], columns = jobs.columns, rows = [];
    for (let row = 0; row < jobs.ids.length; row += 1) if ((!this.among || this.among.has(jobs.ids[row])) && (!this.brushed || this.brushed.has(jobs.ids[row]))) rows.push(row);
    const by = this.order && columns.find((one) => one.name === this.order.name);
    if (by) {
      const keyed = rows.map((row) => [cellOf(by, row), row]), sign = this.order.down ? -1 : 1;
      keyed.sort(([a], [b]) => a === null || b === null ? (a === null) - (b === null) : sign * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true })));
      keyed.forEach(([, row], index) => { rows[index] = row; });
    }
    const last = Math.max(0, Math.ceil(rows.length / this.size) - 1);
    this.page = Math.min(this.page, last);
    const shown = rows.slice(this.page * this.size, (this.page + 1) * this.size);
    const header = html("tr", {}, html("th", { scope: "col" }, html("span", {}, "job")), ...columns.map((one) => {
      const button = html("button", { type: "button" }, one.label), sorted = this.order?.name === one.name;
      button.addEventListener("click", () => { this.order = { name: one.name, down: sorted && !this.order.down }; this.list(); [...document.querySelectorAll("#list thead button")].find((other) => other.textContent === one.label)?.focus(); });
      return html("th", { scope: "col", ...(one.values ? {} : { class: "n" }), ...(sorted ? { "aria-sort": this.order.down ? "descending" : "ascending" } : {}) }, button);
    }));
    const body = shown.map((row) => html("tr", {}, html("td", { class: "id" }, holder("live", jobs.ids[row]), link("/job", { id: jobs.ids[row] }, short(jobs.ids[row]))), ...columns.map((one) => one.values ? html("td", {}, value(cellOf(one, row))) : html("td", { class: "n" }, aligned(cellOf(one, row), one)))));
    const scroll = html("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Jobs" }, html("table", {}, html("thead", {}, header), html("tbody", {}, ...body)));
    const turn = (words, by2, off) => { const button = html("button", { type: "button", ...(off ? { disabled: "" } : {}) }, words); button.addEventListener("click", () => { this.page += by2; this.list(); }); return button; };
    const place = rows.length ? `${count(this.page * this.size + 1)}–${count(this.page * this.size + shown.length)} of ${count(rows.length)}` : "none";
    const old = document.querySelector("#list .scroll"), left = old ? old.scrollLeft : 0;
    document.getElementById("list").replaceChildren(scroll, html("div", { class: "tools" }, turn("Before", -1, this.page === 0), turn("Next", 1, this.page >= last), html("span", {}, place)));
    scroll.scrollLeft = left;
    watchEdges(scroll);
    const beyond = jobs.of > jobs.ids.length ? `; of ${count(jobs.of)} jobs the first ${count(jobs.ids.length)} are here` : "";
    this.rows = rows;
    this.select();
    document.getElementById("matched").textContent = this.among || this.brushed || beyond ? `${count(rows.length)} of ${count(jobs.ids.length)} jobs${beyond}` : "";
  },
  groups() {
    // Whose curves are drawn: the held jobs, or what the brushes and the condition leave, each or by their colour.
    const jobs = this.jobs[this.kind()], held = HELD.kind === "live" ? HELD.ids.map((id) => jobs.ids.indexOf(id)).filter((row) => row >= 0) : [];
    let rows = held.length ? held : this.among || this.brushed ? this.rows : [];
    if (rows.length > FEW_CURVES) {
      if (rows.length > MOST_CURVES) rows = [...rows].sort((a, b) => jobs.ids[a] < jobs.ids[b] ? -1 : 1).slice(0, MOST_CURVES); // identities are hashes: a random sample
      return this.chart.groups(rows);
    }
    const differing = jobs.columns.filter((one) => one.setting && new Set(rows.map((row) => cellOf(one, row))).size > 1);
    return rows.map((row) => [[short(jobs.ids[row]), ...differing.map((one) => `${one.label} ${cellOf(one, row) ?? "–"}`)].join(", "), [jobs.ids[row]]]);
  },
  async select() {
    // The curves of what is selected, and the held jobs beside each other.
    const groups = this.groups(), spot = document.getElementById("selected"), asked = JSON.stringify([groups, newest]), jobs = this.jobs[this.kind()];
    if (asked === this.wanted) return;
    this.wanted = asked;
    let curves = [];
    if (groups.length) try {
      await new Promise((done) => { setTimeout(done, 250); }); // a brush that is being drawn asks once
      if (asked !== this.wanted) return;
      const { content } = await ask("/data/curves", {}, { name: ASKED.name, groups }), count = groups.reduce((sum, [, ids]) => sum + ids.length, 0);
      const sample = HELD.ids.length || count === this.rows.length ? "" : `, a random sample of the ${this.rows.length.toLocaleString("en")} selected`;
      if (content.chart) curves = [html("h3", {}, "Curves of the selected jobs"), figure("selected", content.chart, `${count.toLocaleString("en")} ${count === 1 ? "job" : "jobs"}${sample}. Of several jobs of one colour: median, and band from the 10th to the 90th percentile.`)];
    } catch (error) { curves = [html("p", { class: "note" }, error.message)]; }
    if (asked !== this.wanted) return;
    const table = heldBeside(jobs, "live"), two = HELD.kind === "live" && HELD.ids.length === 2 ? [html("p", {}, link("/job", { id: HELD.ids[0], with: HELD.ids[1] }, "Both with their whole configuration"))] : [];
    spot.replaceChildren(...curves, ...(table.length ? [html("h3", {}, "Compared"), ...table, ...two] : []));
  },
  report(content) {
    // The report's own sections, drawn by its own scripts of all its data; what was opened there stays open.
    const spot = document.getElementById("report"), opened = new Set([...spot.querySelectorAll("details[open] > summary")].map((one) => one.textContent));
    const found = new DOMParser().parseFromString(content.main, "text/html");
    found.querySelectorAll("script, [data-parallel], #explore, noscript").forEach((one) => one.remove());
    Object.assign(DATA, content.data, { charts: { ...DATA.charts, ...content.data.charts } });
    const scroll = scrollY;
    spot.replaceChildren(...found.body.childNodes);
    spot.querySelectorAll("details > summary").forEach((one) => { if (opened.has(one.textContent)) one.parentElement.open = true; });
    prepare(spot);
    scrollTo({ top: scroll, behavior: "instant" });
  },
};

document.addEventListener("held", () => { if (SWEEP.jobs) SWEEP.select(); });

function acts(name) {
  const spot = document.getElementById("acts");
  if (spot.firstChild) return;
  const says = html("p", { class: "note", role: "status" }), go = html("button", { type: "button", hidden: "" }, "Do it");
  let agreed = null;
  const post = async (act, words) => {
    try {
      const { content } = await ask("/act", {}, { act, name, agreed: words });
      says.textContent = content.would || content.done;
      agreed = content.would ? [act, content.would] : null;
    } catch (error) { says.textContent = error.message; agreed = null; }
    go.hidden = !agreed;
  };
  go.addEventListener("click", () => { if (agreed) post(...agreed); });
  spot.append(html("div", { class: "acts" }, ...["pause", "resume", "retry", "cancel"].map((act) => {
    const button = html("button", { type: "button" }, act[0].toUpperCase() + act.slice(1));
    button.addEventListener("click", () => post(act, ""));
    return button;
  }), go), says);
}

function away(words) {
  const spot = document.getElementById("away"), pulse = document.getElementById("pulse");
  spot.textContent = words;
  spot.hidden = !words;
  pulse.textContent = words ? "waiting" : "live";
  pulse.classList.toggle("off", Boolean(words));
}

const PAGE = PAGES[LIVE.page];
let newest = LIVE.number;
const having = new Map(), busy = new Set();

async function fresh(part) {
  // Ask for the page's content, or for a part of it, until it is of the newest moment. One question at a time for each.
  if (busy.has(part)) return;
  busy.add(part);
  try {
    while ((having.get(part) ?? -1) < newest) {
      const wanted = newest;
      try {
        const { content, number: of } = await ask(`/data/${part}`, ASKED);
        if (part === LIVE.page) { await PAGE.draw(content); away(""); } else PAGE.drawPart(part, content);
        having.set(part, of);
        if (of < newest) await new Promise((done) => { setTimeout(done, 2000); });
      } catch (error) {
        if (part === LIVE.page) away(error.message); else PAGE.failPart(part, error);
        having.set(part, wanted);
      }
    }
  } finally { busy.delete(part); }
}
function freshen() { for (const part of [LIVE.page, ...(PAGE.parts || [])]) fresh(part); }

MAIN.append(...PAGE.make());
document.getElementById("footer").textContent = `qsweep ui · ${LIVE.place} · times are UTC`;
head(LIVE.asked.name || LIVE.asked.id || "qsweep", "");
away(LIVE.problem);
if (LIVE.content) { having.set(LIVE.page, LIVE.number); Promise.resolve(PAGE.draw(LIVE.content)).finally(() => { document.documentElement.dataset.drawn = "true"; }); }
(PAGE.parts || []).forEach((part) => fresh(part));
const stream = new EventSource("/events");
stream.addEventListener("message", (event) => {
  const moment = JSON.parse(event.data);
  if (moment.number < newest) having.clear(); // another server counts anew
  if (moment.away) { newest = moment.number; away(moment.away); return; }
  away(newest === moment.number ? LIVE.problem : "");
  if (moment.number !== newest) { newest = moment.number; freshen(); }
});
stream.addEventListener("error", () => away("The server of this page does not answer; it is asked again …"));
addEventListener("pagehide", () => stream.close());
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
