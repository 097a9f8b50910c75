// Shows the view that the address names after #.

import { startCheck } from "./check.js";
import { start } from "./certify.js";
import { byId, showProblem } from "./dom.js";
import { showRuns } from "./runs.js";

const titles = { certify: "Certify", runs: "Runs", check: "Check" };
const started = new Set();

async function route() {
  const [name, ...rest] = location.hash.slice(1).split("/");
  const view = name in titles ? name : "certify";
  for (const other of Object.keys(titles)) byId(`view-${other}`).hidden = other !== view;
  for (const link of document.querySelectorAll(".top nav a")) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${titles[view]} · Denoised Smoothing`;
  if (view === "runs") {
    await showRuns(decodeURIComponent(rest.join("/")));
    return;
  }
  if (started.has(view)) return;
  started.add(view);
  try {
    await (view === "check" ? startCheck() : start());
  } catch (error) {
    showProblem(byId("problem"), error);
  }
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});
addEventListener("hashchange", route);
route();
