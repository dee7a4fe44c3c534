"use strict";
// The page sends a query table as soon as it is chosen, shows how it is understood, and can then start a run on it. It
// lists the last runs, and repeats, cancels and deletes them.
const $ = (id) => document.getElementById(id);
const { base, api, largest } = $("page").dataset;
const EXTRACT = "pacsifier_extract";
const reading = ["date_format", "match", "sheet", "hidden_rows", "columns", "sql"];
let taken = null; // the table, as the server has understood it; of a run that is repeated, its id alone
let ofTable = {}; // how the table of a repeated run is read
let handed = null; // the chosen file; it is sent again when an option of reading changes

function element(name, text, ...children) {
  const made = document.createElement(name);
  if (text !== "") made.textContent = text;
  made.append(...children);
  return made;
}

const cell = (one) => (one instanceof Node ? element("td", "", one) : element("td", one));

function table(caption, columns, rows) {
  const heads = columns.map((column) => {
    const head = element("th", column);
    head.scope = "col";
    return head;
  });
  const lines = rows.map((cells) => element("tr", "", ...cells.map(cell)));
  const title = element("caption", caption);
  title.className = "unseen";
  const scroll = element(
    "div",
    "",
    element("table", "", title, element("thead", "", element("tr", "", ...heads)), element("tbody", "", ...lines)),
  );
  scroll.className = "scroll";
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", caption);
  return scroll;
}

const count = (number, one, many) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
const note = (text) => Object.assign(element("p", text), { className: "note" });

// The message of an error response. Ours are sentences; those of Airflow may be lists.
async function reason(answer) {
  if (answer.status === 401) return "You are logged in no more. Log in to Airflow again, then reload this page.";
  try {
    const { detail } = await answer.json();
    // Of an option that does not fit its schema, Airflow repeats the whole schema behind the first line.
    return typeof detail === "string" ? detail.split("\n")[0] : JSON.stringify(detail);
  } catch {
    return `The server answered ${answer.status}.`;
  }
}

async function take(file) {
  taken = null;
  ofTable = {};
  show();
  if (file.size > Number(largest)) {
    $("said").textContent = "The table is too large; cut it into several.";
    return;
  }
  $("said").textContent = `Checking ${file.name} …`;
  const body = new FormData();
  body.append("table", file, "table"); // the name of the file is not sent
  for (const name of reading) if ($(name).value.trim()) body.append(name, $(name).value.trim());
  try {
    const answer = await fetch(`${base}/requests`, { method: "POST", body });
    if (answer.status === 201 || answer.status === 422) {
      taken = await answer.json();
      $("said").textContent = `${file.name}: ${verdict()}`;
      suggestFolder();
      setTimeout(look); // once the table is shown
    } else {
      $("said").textContent = await reason(answer);
    }
  } catch {
    $("said").textContent = "The table could not be sent. Choose it again, for it may have changed meanwhile.";
  }
  show();
}

function verdict() {
  if (!taken.request) return "it cannot be used as it is. Say above how it is to be read, or mend it and choose it again.";
  const parts = [`${count(taken.rows, "row", "rows")} can be asked`];
  if (taken.bad_rows) parts.push(`${count(taken.bad_rows, "row has a problem", "rows have problems")}`);
  if (taken.repeated_rows) parts.push(`${count(taken.repeated_rows, "row repeats", "rows repeat")} an earlier one`);
  return `${parts.join(", ")}.`;
}

function show() {
  for (const id of ["start", "count"]) $(id).disabled = !taken?.request;
  $("kept").hidden = !taken?.request;
  $("request").textContent = taken?.request ?? "";
  $("note").textContent = "";
  $("counted").hidden = true;
  $("problems").hidden = !taken?.problem_count;
  $("understood").hidden = !taken?.rows;
  if (!taken?.preview) return;
  const lines = taken.problems.map((one) => [
    [one.line ? `Line ${one.line}` : "The file", one.column].filter(Boolean).join(", "),
    one.message,
    one.value,
  ]);
  $("problem-list").replaceChildren(table("Problems", ["Where", "What is wrong", "It says"], lines));
  if (taken.problem_count > lines.length) $("problem-list").append(note(`The first ${lines.length} of ${taken.problem_count}.`));
  if (taken.request && !taken.all_usable) {
    $("note").textContent = "Rows with problems are left out. To have them too, mend the table and choose it again.";
  }
  if (taken.rows) preview();
}

function preview() {
  const columns = taken.columns.filter((column) => column !== "new_ids");
  const pseudonyms = taken.columns.includes("new_ids");
  const rows = taken.preview.map((row) => [
    row.line,
    ...columns.map((column) => row.keys[column] ?? row.beside[column] ?? ""),
    ...(pseudonyms ? [row.new_id] : []),
  ]);
  $("preview").replaceChildren(
    table("Rows as understood", ["Line", ...columns, ...(pseudonyms ? ["new_ids"] : [])], rows),
  );
  if (taken.rows > rows.length) $("preview").append(note(`The first ${rows.length} of ${taken.rows} rows.`));
  const listed = (lines, all) => `${lines.join(", ")}${all > lines.length ? ` and ${all - lines.length} more` : ""}`;
  for (const text of taken.notes) $("preview").append(note(`Note: ${text}.`));
  for (const one of taken.warnings) {
    $("preview").append(note(`Line ${listed(one.lines, one.count)}: ${one.message}`));
  }
  if (taken.repeated_rows) {
    const pairs = taken.repeats.map((one) => `${one.line} (as ${one.same_as})`);
    $("preview").append(note(`Asks the same as an earlier line: line ${listed(pairs, taken.repeated_rows)}.`));
  }
}

// The options of the chosen job

const job = () => document.querySelector("[name=job]:checked").value;
const part = () => document.querySelector(`[data-job="${job()}"]`);
const field = (name) => part().querySelector(`[data-kind][name="${name}"]`);
const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

function valueOf(one) {
  if (one.dataset.kind === "switch") return one.checked;
  if (one.dataset.kind === "several") return [...one.querySelectorAll("input:checked")].map((box) => box.value);
  const text = one.value.trim();
  if (one.dataset.kind === "list") return text.split(",").map((item) => item.trim()).filter(Boolean);
  const more = part().querySelector(`[data-more="${one.name}"]`)?.value;
  if (more && more !== text) return `${text}, ${more}`;
  if (one.dataset.kind === "number" && /^\d+(\.\d+)?$/.test(text)) return Number(text);
  return text || (JSON.parse(one.dataset.default) === null ? null : "");
}

function setValue(one, value) {
  if (one.dataset.kind === "switch") one.checked = Boolean(value);
  else if (one.dataset.kind === "several") {
    for (const box of one.querySelectorAll("input")) box.checked = (value ?? []).includes(box.value);
  } else if (one.tagName === "SELECT") {
    const [first, second] = String(value ?? "").split(/\s*,\s*/);
    choose(one, first);
    const more = part().querySelector(`[data-more="${one.name}"]`);
    if (more) choose(more, second ?? "");
  } else one.value = Array.isArray(value) ? value.join(", ") : (value ?? "");
}

function choose(list, value) {
  if (![...list.options].some((one) => one.value === value)) list.add(new Option(value, value));
  list.value = value;
}

// What the run is to be told: what everybody sees, and what of the other options is not as it stands by itself.
function conf() {
  const found = { queryfile: taken.request, ...ofTable };
  const file = field("project_file")?.value.trim();
  if (file) return { ...found, project_file: file }; // it says all the rest
  for (const one of part().querySelectorAll("[data-kind]")) {
    if (one.closest("[hidden]")) continue;
    const value = valueOf(one);
    const standard = JSON.parse(one.dataset.default);
    if (same(value, standard)) {
      if (value === null || one.closest("details")) continue;
    }
    found[one.name] = value;
  }
  return found;
}

function suggestFolder() {
  const folder = document.querySelector(`[data-job="${EXTRACT}"] [name=out_directory]`);
  if (!folder || !taken.folder || "typed" in folder.dataset) return;
  folder.value = taken.folder;
}

// Fields that have no meaning as others stand.
function fold() {
  for (const one of document.querySelectorAll("[data-job]")) one.hidden = one.dataset.job !== job();
  const destination = field("destination");
  if (destination) destination.closest(".field").hidden = field("retrieve").value !== "move";
  const file = field("project_file");
  if (file) {
    const whole = Boolean(file.value.trim());
    for (const one of part().querySelectorAll(".field, .switch, details")) one.hidden = whole && !one.contains(file);
  }
  const countable = document.querySelector(`[name=job][value="${EXTRACT}"]`) && !file?.value.trim();
  $("count").hidden = !countable;
}

// The check before the start

let checked = ""; // the conf that was checked last

async function post(address, body) {
  return fetch(address, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
}

// A message as a sentence. The name of a file stays as it is.
const sentence = (text) => (/^\S*[./_]\S/.test(text) ? text : `${text[0].toUpperCase()}${text.slice(1)}`);

// Whether a run of this conf would get as far as the PACS. What speaks against it is shown, and where.
async function check() {
  if (!taken?.request) return false;
  const asked = { dag_id: job(), conf: conf() };
  const answer = await post(`${base}/checks`, asked);
  const { problems, remarks } = answer.ok ? await answer.json() : { problems: [{ message: await reason(answer) }], remarks: [] };
  for (const one of document.querySelectorAll(".wrong")) one.textContent = "";
  $("remarks").replaceChildren();
  for (const one of [...problems, ...remarks]) {
    const place = one.option && $(`${job()}-${one.option}-wrong`);
    if (place) {
      place.textContent = `${place.textContent} ${sentence(one.message)}.`.trim();
      place.closest("details")?.setAttribute("open", "");
    } else $("remarks").append(element("li", `${one.message.replace(/\.$/, "")}.`));
  }
  checked = JSON.stringify(asked);
  return !problems.length;
}

// The same while people fill in the form; where the server does not answer, the start will say so.
const look = () => check().catch(() => {});

async function start(event) {
  event.preventDefault();
  if (!taken?.request) return;
  $("start").disabled = true;
  $("note").textContent = "Starting …";
  try {
    const seen = checked === JSON.stringify({ dag_id: job(), conf: conf() });
    if (!(await check())) {
      $("note").textContent = "It was not started: see what is wrong with the options.";
    } else if (!seen && document.querySelector(`[data-job="${job()}"] .wrong:not(:empty)`)) {
      $("note").textContent = "It was not started yet: look at the remark, then press Start once more.";
    } else {
      const answer = await post(`${api}/dags/${job()}/dagRuns`, { logical_date: null, conf: conf() });
      if (answer.ok) {
        const run = await answer.json();
        location.assign(`${base}/runs/${job()}/${encodeURIComponent(run.dag_run_id)}`);
        return;
      }
      $("note").textContent = `It was not started: ${await reason(answer)}`;
    }
  } catch {
    $("note").textContent = "It was not started: the server does not answer.";
  }
  $("start").disabled = false;
}

// Counting first: an extraction that only finds the series

const later = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

async function countFirst() {
  $("count").disabled = true;
  $("counted").hidden = false;
  const say = (...what) => $("counted").replaceChildren(...what);
  const table = taken.request;
  try {
    await look();
    if ($(`${job()}-selection-wrong`)?.textContent) return say(note("It was not counted: see what is wrong with the selection."));
    const { queryfile, pacs, search, config, strict, selection, reselect, out_directory } = conf();
    const asked = { queryfile, pacs, search, config, strict, selection, reselect };
    const only = { ...asked, ...ofTable, retrieve: "none", info: false };
    only.out_directory = out_directory ?? `counts/${table.replace(/[^\w-]/g, "_")}`;
    for (const name of Object.keys(only)) if (only[name] === undefined) delete only[name];
    const answer = await post(`${api}/dags/${EXTRACT}/dagRuns`, { logical_date: null, conf: only });
    if (!answer.ok) return say(note(`It was not counted: ${await reason(answer)}`));
    const page = `${base}/runs/${EXTRACT}/${encodeURIComponent((await answer.json()).dag_run_id)}`;
    const link = Object.assign(element("a", "its run"), { href: page });
    say(element("p", "The PACS is asked: ", link));
    listRuns();
    let run;
    do {
      await later(2);
      run = await (await fetch(page, { headers: { Accept: "application/json" } })).json();
    } while (["queued", "running"].includes(run.state) && taken?.request === table);
    if (taken?.request !== table) return $("counted").replaceChildren();
    const counts = await fetch(`${page}/counts`);
    if (counts.ok) say(...countLines(await counts.json()), element("p", "Nothing was fetched: ", link));
    else say(note(`It was not counted: ${run.failure?.sentence ?? "see its run"}. `), link);
  } catch {
    say(note("It was not counted: the server does not answer."));
  } finally {
    $("count").disabled = !taken?.request;
    listRuns();
  }
}

// A rough amount; what is less than one of its unit is told as such.
const about = (amount, unit) =>
  amount < 1 ? `less than 1 ${unit.replace(/s$/, "")}` : `about ${amount.toLocaleString("en", { maximumSignificantDigits: 2 })} ${unit}`;

function countLines(counts) {
  const asked = Object.values(counts.rows).reduce((sum, one) => sum + one, 0);
  const line = [
    `${count((counts.rows.found ?? 0) + (counts.rows.unselected ?? 0), "row", "rows")} of ${asked.toLocaleString("en")} found something`,
    count(counts.series, "series", "series"),
    `about ${count(counts.images, "image", "images")}`,
    counts.gigabytes < 1 ? about(1000 * counts.gigabytes, "MB") : about(counts.gigabytes, "GB"),
    counts.hours < 1 ? about(60 * counts.hours, "minutes") : about(counts.hours, "hours"),
  ];
  const list = element("ul", "", ...counts.sentences.map((text) => element("li", `${sentence(text)}.`)));
  const over = counts.over.map((text) => note(`Beyond a limit: ${text}; somebody has to approve it, or the run ends.`));
  return [Object.assign(element("p", line.join(" → ")), { className: "sum" }), list, ...over];
}

// The last runs

const KINDS = { success: "good", complete: "good", running: "fresh", queued: "listed", failed: "bad", unbalanced: "bad" };
let runs = [];

async function listRuns() {
  try {
    const answer = await fetch(`${base}/runs?everybody=${$("everybody").checked}`);
    if (!answer.ok) return $("run-list").replaceChildren(note(await reason(answer)));
    const listed = await answer.json();
    if (document.querySelector("#run-list [data-armed]")) return; // the button would be another one, or of another run
    ({ runs } = listed);
  } catch {
    return; // the server may come back
  }
  if (!runs.length) return $("run-list").replaceChildren(note($("everybody").checked ? "There are none yet." : "You have started none yet."));
  const lines = runs.map((run, number) => {
    const state = run.verdict || run.state;
    const badge = Object.assign(element("span", state), { className: `badge ${KINDS[state] ?? "doubt"}` });
    const link = Object.assign(element("a", run.what), { href: `${base}/${run.page}` });
    const what = element("span", "", link, element("span", run.where ? ` ${run.where}` : ""));
    const began = run.started && new Date(run.started).toLocaleString("sv").slice(0, 16);
    const deeds = element("span", "");
    if (run.conf?.queryfile) deeds.append(deed("Repeat", number));
    if (run.may_cancel) deeds.append(deed("Cancel", number));
    if (run.may_delete) deeds.append(deed("Delete", number));
    deeds.className = "deeds";
    return [what, run.who, run.pacs, began, badge, deeds];
  });
  $("run-list").replaceChildren(table("Runs", ["What", "Who", "PACS", "Began", "State or verdict", ""], lines));
}

function deed(name, number) {
  const button = Object.assign(element("button", name), { type: "button", className: "quiet" });
  button.dataset.deed = name;
  button.dataset.run = number;
  return button;
}

async function refresh() {
  await later(5);
  if (runs.some((run) => run.goes_on)) await listRuns();
  refresh();
}

const deeds = {
  Repeat(run) {
    const choice = document.querySelector(`[name=job][value="${run.dag_id}"]`);
    if (!choice) return;
    choice.checked = true;
    const { queryfile, ...given } = run.conf;
    if (given.retrieve === "none") {
      delete given.retrieve; // it only counted
      delete given.info;
    }
    fold();
    for (const one of part().querySelectorAll("[data-kind]")) {
      const name = one.name;
      setValue(one, given[name] ?? JSON.parse(one.dataset.default));
    }
    ofTable = Object.fromEntries(Object.entries(given).filter(([name]) => reading.includes(name)));
    taken = { request: queryfile };
    handed = null;
    fold();
    show();
    $("said").textContent = `The table of ${run.what}${run.where ? ` ${run.where}` : ""} is taken again.`;
    $("said").scrollIntoView({ block: "center" });
    look();
  },

  // The first click asks, the second cancels: Airflow shows the page in a frame that may open no dialogue.
  async Cancel(run, button) {
    if (!("armed" in button.dataset)) {
      button.dataset.armed = "";
      button.textContent = "Cancel this run?";
      setTimeout(() => {
        delete button.dataset.armed;
        button.textContent = "Cancel";
      }, 5000);
      return;
    }
    delete button.dataset.armed;
    const answer = await fetch(`${base}/${run.page}/cancel`, { method: "POST" });
    if (!answer.ok) told(await reason(answer));
    listRuns();
  },

  async Delete(run) {
    const answer = await fetch(`${base}/${run.page}/deletion`);
    if (!answer.ok) return told(await reason(answer));
    const { goes, stays } = await answer.json();
    const list = (head, lines) => [element("p", head), element("ul", "", ...lines.map((text) => element("li", text)))];
    const yes = Object.assign(element("button", "Delete it"), { type: "button" });
    const no = Object.assign(element("button", "Keep it"), { type: "button", className: "quiet" });
    yes.addEventListener("click", () => remove(run));
    no.addEventListener("click", () => told());
    const title = `Delete ${run.what}${run.where ? ` ${run.where}` : ""}, begun ${run.started.slice(0, 16).replace("T", " ")}?`;
    const buttons = Object.assign(element("p", "", yes, no), { className: "buttons" });
    told(element("h3", title), ...list("This goes:", goes), ...list("This stays:", stays), buttons);
  },
};

function told(...what) {
  $("deletion").replaceChildren(...what.map((one) => (typeof one === "string" ? note(one) : one)));
  $("deletion").hidden = !what.length;
  if (what.length) $("deletion").scrollIntoView({ block: "center" });
}

// Its folder first: where that fails, the run is still in the list.
async function remove(run) {
  try {
    for (const address of [
      `${base}/${run.page}`,
      `${api}/dags/${encodeURIComponent(run.dag_id)}/dagRuns/${encodeURIComponent(run.run_id)}`,
    ]) {
      const answer = await fetch(address, { method: "DELETE" });
      if (!answer.ok) return told(await reason(answer));
    }
    told();
  } catch {
    told("The server does not answer; try it again.");
  }
  listRuns();
}

async function unpause(button) {
  const answer = await fetch(`${api}/dags/${button.dataset.unpause}`, {
    method: "PATCH",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ is_paused: false }),
  });
  if (answer.ok) $(`paused-${button.dataset.unpause}`).remove();
  else $("note").textContent = await reason(answer);
}

function chosen() {
  const [file] = $("table").files;
  if (file) take((handed = file));
  $("table").value = ""; // else the same file could not be chosen again after a correction
}

// What happens where. Without the right to start anything, the page has the list alone.
if ($("start-form")) {
  $("table").addEventListener("change", chosen);
  chosen(); // a file may have been chosen before this script was loaded
  for (const kind of ["dragover", "dragleave", "drop"]) {
    $("drop").addEventListener(kind, (event) => {
      event.preventDefault();
      $("drop").classList.toggle("over", kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files.length) take((handed = event.dataTransfer.files[0]));
    });
  }
  for (const name of reading) $(name).addEventListener("change", () => handed && take(handed));
  $("start-form").addEventListener("change", (event) => {
    if (event.target.name === "out_directory") event.target.dataset.typed = "";
    fold();
    look();
  });
  $("start-form").addEventListener("submit", start);
  $("count").addEventListener("click", countFirst);
  fold();
}
$("everybody").addEventListener("change", listRuns);
document.addEventListener("click", ({ target }) => {
  if (target.dataset.unpause) unpause(target);
  if (target.dataset.deed) deeds[target.dataset.deed](runs[Number(target.dataset.run)], target);
});
listRuns();
refresh();
