"use strict";
// The page sends a query table as soon as it is chosen, shows how it is understood, and can then start a run.
const $ = (id) => document.getElementById(id);
const form = $("extraction");
const reading = ["date_format", "match", "sheet", "hidden_rows"];
let taken = null;
let handed = null; // the chosen file; it is sent again when an option of reading changes

function element(name, text, ...children) {
  const made = document.createElement(name);
  if (text !== "") made.textContent = text;
  made.append(...children);
  return made;
}

function table(caption, columns, rows) {
  const heads = columns.map((column) => {
    const head = element("th", column);
    head.scope = "col";
    return head;
  });
  const lines = rows.map((cells) => element("tr", "", ...cells.map((cell) => element("td", cell))));
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
    return typeof detail === "string" ? detail : JSON.stringify(detail);
  } catch {
    return `The server answered ${answer.status}.`;
  }
}

async function take(file) {
  taken = null;
  show();
  if (file.size > Number(form.dataset.largest)) {
    $("said").textContent = "The table is too large; cut it into several.";
    return;
  }
  $("said").textContent = `Checking ${file.name} …`;
  const body = new FormData();
  body.append("table", file, "table"); // the name of the file is not sent
  for (const name of reading) if ($(name).value.trim()) body.append(name, $(name).value.trim());
  try {
    const answer = await fetch(form.dataset.requests, { method: "POST", body });
    if (answer.status === 201 || answer.status === 422) {
      taken = await answer.json();
      $("said").textContent = `${file.name}: ${verdict()}`;
    } else {
      $("said").textContent = await reason(answer);
    }
  } catch {
    $("said").textContent = "The table could not be sent. Choose it again, for it may have changed meanwhile.";
  }
  show();
}

function verdict() {
  if (!taken.request) return "it cannot be used as it is. Mend it and choose it again.";
  const parts = [`${count(taken.rows, "row", "rows")} can be asked`];
  if (taken.bad_rows) parts.push(`${count(taken.bad_rows, "row has a problem", "rows have problems")}`);
  if (taken.repeated_rows) parts.push(`${count(taken.repeated_rows, "row repeats", "rows repeat")} an earlier one`);
  return `${parts.join(", ")}.`;
}

function show() {
  $("start").disabled = !taken?.request;
  $("note").textContent = "";
  $("problems").hidden = !taken?.problem_count;
  $("understood").hidden = !taken?.rows;
  if (!taken) return;
  const lines = taken.problems.map((one) => [
    one.line || "whole file",
    one.column || (one.line ? "whole row" : ""),
    one.message,
    one.value,
  ]);
  $("problem-list").replaceChildren(table("Problems", ["Line", "Column", "What is wrong", "It says"], lines));
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
    ...columns.map((column) => row.keys[column] ?? ""),
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

async function start(event) {
  event.preventDefault();
  if (!taken?.request) return;
  $("start").disabled = true;
  $("note").textContent = "Starting …";
  const conf = { queryfile: taken.request };
  for (const name of ["pacs", "out_directory", "retrieve"]) conf[name] = $(name).value.trim();
  const more = $("more")?.value;
  if (more && more !== conf.pacs) conf.pacs += `, ${more}`;
  for (const name of ["strict", "accept_incomplete"]) conf[name] = $(name).checked;
  if (conf.retrieve === "move" && $("destination").value.trim()) conf.destination = $("destination").value.trim();
  try {
    const answer = await fetch(form.dataset.start, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ logical_date: null, conf }),
    });
    if (answer.ok) {
      const run = await answer.json();
      location.assign(form.dataset.runs + encodeURIComponent(run.dag_run_id));
      return;
    }
    $("note").textContent = `It was not started: ${await reason(answer)}`;
  } catch {
    $("note").textContent = "It was not started: the server does not answer.";
  }
  $("start").disabled = false;
}

function chosen() {
  const [file] = $("table").files;
  if (file) take((handed = file));
  $("table").value = ""; // else the same file could not be chosen again after a correction
}

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
$("retrieve").addEventListener("change", () => {
  $("destination").parentElement.hidden = $("retrieve").value !== "move";
});
form.addEventListener("submit", start);
