"use strict";
// The page of a run loads itself again while the run goes on, and shows the changes.
document.querySelector("header").setAttribute("aria-live", "polite");

async function refresh() {
  if (document.querySelector("#cancel[data-armed]")) return again(); // the button would be another one
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (answer.redirected) return location.reload(); // to the login
    if (answer.ok) {
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const part of ["header", "main"]) {
        const [shown, fresh] = [document, page].map((one) => one.querySelector(part));
        if (shown.innerHTML !== fresh.innerHTML) shown.replaceChildren(...fresh.childNodes);
      }
      document.title = page.title;
    }
  } catch {
    // The server does not answer; it may come back.
  }
  again();
}

function again() {
  if (document.querySelector("[data-running]")) setTimeout(refresh, 3000);
}

again();

// The first click asks, the second cancels: Airflow shows the page in a frame that may open no dialogue.
async function cancel(button) {
  if (!("armed" in button.dataset)) {
    const before = button.textContent;
    button.dataset.armed = "";
    button.textContent = "Cancel this run?";
    setTimeout(() => {
      delete button.dataset.armed;
      button.textContent = before;
    }, 5000);
    return;
  }
  button.disabled = true;
  const said = document.getElementById("cancel-said");
  try {
    const answer = await fetch(button.dataset.address, { method: "POST", headers: { Accept: "application/json" } });
    if (answer.ok) return location.reload();
    said.textContent = (await answer.json()).detail;
  } catch {
    said.textContent = "The server does not answer; try it again.";
  }
  button.disabled = false;
}

document.addEventListener("click", (event) => {
  if (event.target.id === "cancel") cancel(event.target);
});
