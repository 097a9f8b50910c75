// Shows the view that the address names after #.

import { start } from "./certify.js";
import { byId, showProblem } from "./dom.js";
import { showRuns } from "./runs.js";

let started = false;

async function route() {
  const [view, ...rest] = (location.hash.slice(1) || "certify").split("/");
  const runs = view === "runs";
  byId("view-certify").hidden = runs;
  byId("view-runs").hidden = !runs;
  for (const link of document.querySelectorAll(".top nav a")) {
    const current = link.hash === (runs ? "#runs" : "#certify");
    if (current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${runs ? "Runs" : "Certify"} · Denoised Smoothing`;
  if (runs) {
    await showRuns(decodeURIComponent(rest.join("/")));
  } else if (!started) {
    started = true;
    try {
      await start();
    } catch (error) {
      showProblem(byId("problem"), error);
    }
  }
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});
addEventListener("hashchange", route);
route();
