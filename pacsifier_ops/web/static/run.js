"use strict";
// The page of a run loads itself again while the run goes on, and shows the changes. It cancels the run, and sends answers
// to questions to Airflow, which checks who may answer.
document.querySelector("header").setAttribute("aria-live", "polite");

const parts = (page) => [...page.querySelectorAll("header, main > section")];
const asServed = (page) => parts(page).map((part) => ({ name: part.getAttribute("aria-labelledby"), html: part.innerHTML }));
let served = asServed(document); // so that what a person does here is no change

async function refresh() {
  if (document.querySelector("[data-armed]")) return again(); // the button would be another one
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (answer.redirected) return location.reload(); // to the login
    if (answer.ok) update(new DOMParser().parseFromString(await answer.text(), "text/html"));
  } catch {
    // The server does not answer; it may come back.
  }
  again();
}

function update(page) {
  const now = asServed(page);
  const [shown, fresh] = [parts(document), parts(page)];
  if (String(now.map((part) => part.name)) === String(served.map((part) => part.name))) {
    now.forEach((part, place) => {
      if (part.html !== served[place].html) shown[place].replaceChildren(...fresh[place].childNodes);
    });
  } else {
    for (const name of ["header", "main"]) {
      document.querySelector(name).replaceChildren(...page.querySelector(name).childNodes);
    }
  }
  served = now;
  document.title = page.title;
}

function again() {
  if (document.querySelector("[data-running]")) setTimeout(refresh, 3000);
}

again();

// The first click asks, the second does it: Airflow shows the page in a frame that may open no dialogue.
function sure(button, question) {
  if ("armed" in button.dataset) return true;
  const before = button.textContent;
  button.dataset.armed = "";
  button.textContent = question;
  setTimeout(() => {
    delete button.dataset.armed;
    button.textContent = before;
  }, 5000);
  return false;
}

// Sends a request, and loads the page again. Says why not, if it was refused.
async function send(buttons, said, address, request) {
  for (const button of buttons) button.disabled = true;
  try {
    const answer = await fetch(address, request);
    if (answer.ok) return location.reload();
    said.textContent = await reason(answer);
  } catch {
    said.textContent = "The server does not answer; try it again.";
  }
  for (const button of buttons) button.disabled = false;
}

// The message of an error response. Ours are sentences; those of Airflow may be lists.
async function reason(answer) {
  if (answer.status === 401) return "You are logged in no more. Log in to Airflow again, then reload this page.";
  if (answer.status === 409) return "The question was answered meanwhile, or the run has ended. Reload this page.";
  try {
    const { detail } = await answer.json();
    return typeof detail === "string" ? detail : JSON.stringify(detail);
  } catch {
    return `The server answered ${answer.status}.`;
  }
}

function copy(button) {
  const place = button.previousElementSibling;
  getSelection().selectAllChildren(place);
  // Without https, a page has no other clipboard than this one.
  const done = document.execCommand("copy");
  button.textContent = done ? "Copied" : "Press Ctrl+C";
}

document.addEventListener("click", ({ target }) => {
  if (target.id === "cancel" && sure(target, "Cancel this run?")) {
    const request = { method: "POST", headers: { Accept: "application/json" } };
    send([target], document.getElementById("cancel-said"), target.dataset.address, request);
  }
  if ("copy" in target.dataset) copy(target);
});

document.addEventListener("submit", (event) => {
  event.preventDefault();
  const [form, button] = [event.target, event.submitter];
  if (!sure(button, `${button.value}: are you sure?`)) return;
  const answer = { chosen_options: [button.value], params_input: { reason: form.elements.reason.value.trim() } };
  const buttons = [...form.querySelectorAll("button:enabled")];
  send(buttons, form.querySelector(".said"), form.dataset.address, {
    method: "PATCH",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(answer),
  });
});
