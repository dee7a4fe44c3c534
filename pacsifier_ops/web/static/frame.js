"use strict";
// Airflow shows the pages in a frame whose sandbox does not let it lead the frame around it elsewhere. A link to Airflow
// is therefore clicked there; here, Airflow would open inside of itself.
document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[data-airflow]");
  if (!link || window.parent === window) return;
  event.preventDefault();
  const around = window.parent.document;
  const same = Object.assign(around.createElement("a"), { href: link.href });
  around.body.append(same);
  same.click();
  same.remove();
});
