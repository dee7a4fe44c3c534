"use strict";
// Airflow shows the pages in a frame, which must not lead elsewhere; page.css hides what would.
if (window.top !== window) document.documentElement.classList.add("framed");
