"use strict";
// Airflow shows the pages in a frame. Links to Airflow must not open inside it; page.css hides them there.
if (window.top !== window) document.documentElement.classList.add("framed");
