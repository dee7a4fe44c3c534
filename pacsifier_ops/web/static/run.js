"use strict";
// The page of a run loads itself again while the run goes on, and shows the changes.
document.querySelector("header").setAttribute("aria-live", "polite");

async function refresh() {
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
