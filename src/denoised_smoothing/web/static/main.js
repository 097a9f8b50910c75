// Which view is shown: the part of the address after #.

import { start } from "./certify.js";
import { byId, complain } from "./dom.js";
import { show } from "./runs.js";

let begun = false;

async function route() {
  const [view, ...rest] = (location.hash.slice(1) || "certify").split("/");
  const runs = view === "runs";
  byId("view-certify").hidden = runs;
  byId("view-runs").hidden = !runs;
  for (const link of document.querySelectorAll(".top nav a")) {
    const is = link.hash === (runs ? "#runs" : "#certify");
    if (is) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${runs ? "Runs" : "Certify"} · Denoised Smoothing`;
  if (runs) {
    await show(decodeURIComponent(rest.join("/")));
  } else if (!begun) {
    begun = true;
    try {
      await start();
    } catch (error) {
      complain(byId("problem"), error);
    }
  }
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});
addEventListener("hashchange", route);
route();
