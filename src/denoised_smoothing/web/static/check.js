// The view on which the arithmetic of certificates is checked.

import { send } from "./api.js";
import { byId, h, showProblem, thousands } from "./dom.js";

const failing = ({ place, image_id, verdict, reason }) =>
  h("tr", {}, h("th", { scope: "row" }, place, image_id ? h("div", { class: "soft" }, image_id) : null),
    h("td", {}, h("b", { class: "wrong" }, verdict), ` ${reason}`));

function shown(name, found) {
  const counted = Object.entries(found.verdicts).filter(([, count]) => count);
  return h("div", { class: "example" }, h("div", { class: "verdict" },
    h("h2", {}, name),
    h("p", { class: `headline ${found.failing.length ? "wrong" : "correct"}` },
      counted.map(([verdict, count]) => `${thousands(count)} ${verdict}`).join(", ")),
    found.failing.length ? h("table", { class: "settings" }, h("tbody", {}, found.failing.map(failing))) : null,
    found.failing_not_listed ? h("p", {}, `… and ${thousands(found.failing_not_listed)} more`) : null,
    found.without_identity ? h("p", {}, `${thousands(found.without_identity)} do not say which model and image they are about`) : null,
    h("p", { class: "soft" }, found.proves)));
}

async function check(file) {
  if (!file) return;
  showProblem(byId("check-problem"), null);
  byId("check-result").replaceChildren();
  try {
    byId("check-result").replaceChildren(shown(file.name, await send("/v1/verifications", file)));
  } catch (error) {
    showProblem(byId("check-problem"), error);
  }
}

export function startCheck() {
  const drop = byId("check-drop");
  byId("check-file").addEventListener("change", ({ target }) => check(target.files[0]));
  for (const name of ["dragover", "dragenter"]) drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => { event.preventDefault(); check(event.dataTransfer.files[0]); });
  document.documentElement.dataset.ready = "check";
}
