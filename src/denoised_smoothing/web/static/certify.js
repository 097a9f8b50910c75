// The view on which an image is certified.

import { get, picture } from "./api.js";
import { byId, calm, showProblem, h, picked, radios, thousands } from "./dom.js";
import { panel } from "./panel.js";

const NONE = "none";
let served, model, chosen, running;

const plans = (limit) => [1000, 10000, 100000]
  .filter((n) => n + 100 <= limit || n === 1000)
  .map((n) => ({ value: n, text: thousands(n), title: `${thousands(n)} copies` }))
  .concat({ value: "anytime", text: "as needed", title: "Stops when all radii of the table are decided" });

async function choose(example) {
  const source = `/v1/models/${encodeURIComponent(model.classifier)}/examples/${encodeURIComponent(example.name)}`;
  set({ example: example.name, truth: example.label, url: await picture(source) }, example.label === null ? "" : `True label: “${example.label}”.`);
  for (const button of byId("examples").children) {
    const is = button.dataset.name === example.name;
    button.setAttribute("aria-checked", is);
    button.tabIndex = is ? 0 : -1;
  }
}

function take(file) {
  if (!file) return;
  if (file.size > served.limits.bytes) {
    showProblem(byId("problem"), new Error(`The file is larger than ${served.limits.bytes / 1e6} MB, the maximum. Choose a smaller one.`));
    return;
  }
  for (const button of byId("examples").children) button.setAttribute("aria-checked", false);
  set({ file, truth: null, url: URL.createObjectURL(file) }, file.name);
}

function set(image, note) {
  chosen = image;
  byId("chosen").src = image.url;
  byId("chosen-note").textContent = note;
  showProblem(byId("problem"), null);
}

async function showModel() {
  model = served.models.find(({ classifier }) => classifier === byId("classifier").value);
  const small = Math.max(...model.shape.slice(1)) < 96;
  byId("chosen").className = small ? "small" : "";
  const fronts = model.denoisers.filter((name) => name !== NONE);
  byId("denoiser").replaceChildren(...[...fronts, ...model.denoisers.filter((name) => name === NONE)].map((name) => h("option", { value: name }, name)));
  byId("compare-field").hidden = !(fronts.length && model.denoisers.includes(NONE));
  radios(byId("sigmas"), "sigma", model.sigmas.map((value) => ({ value, text: value })), model.sigmas.at(-1));
  radios(byId("plans"), "plan", plans(served.limits.copies), 10000 <= served.limits.copies - 100 ? 10000 : 1000);
  byId("examples").replaceChildren();
  byId("examples").hidden = !model.examples.length;
  for (const example of model.examples) {
    const image = h("img", { alt: example.label === null ? `example ${example.name}` : `example, “${example.label}”`, class: small ? "small" : "" });
    byId("examples").append(h("button", { type: "button", role: "radio", "data-name": example.name, "aria-checked": "false", tabindex: -1, onclick: () => choose(example) }, image));
    picture(`/v1/models/${encodeURIComponent(model.classifier)}/examples/${encodeURIComponent(example.name)}`).then((url) => { image.src = url; });
  }
  if (model.examples.length) await choose(model.examples[0]);
}

// The examples are a group of radio buttons: arrow keys move and choose.
function arrows(event) {
  const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!move) return;
  event.preventDefault();
  const buttons = [...byId("examples").children];
  const next = buttons[(buttons.indexOf(document.activeElement) + move + buttons.length) % buttons.length];
  next.focus();
  next.click();
}

function wanted(denoiser) {
  const plan = picked("plan");
  const { sigmas } = model;
  const radii = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5].filter((r) => r <= 4 * Math.max(...sigmas));
  const numbers = plan === "anytime"
    ? { plan: "anytime", max_n: Math.min(50000, served.limits.copies - 50), radii: radii.join(",") }
    : { plan: "fixed", n0: 100, n: plan };
  return { classifier: model.classifier, denoiser, sigma: picked("sigma"), pictures: true, example: chosen.example, ...numbers };
}

async function certify(event) {
  event.preventDefault();
  if (!chosen) {
    showProblem(byId("problem"), new Error("No image is chosen. Choose an example or a file."));
    return;
  }
  running?.abort();
  const mine = running = new AbortController();
  const denoiser = byId("denoiser").value;
  const both = byId("compare").checked && !byId("compare-field").hidden && denoiser !== NONE;
  const small = Math.max(...model.shape.slice(1)) < 96;
  const panels = (both ? [NONE, denoiser] : [denoiser]).map((name) => panel({
    title: name === NONE ? "Without denoiser" : `With denoiser: ${name}`,
    fields: wanted(name), image: chosen.file, truth: chosen.truth, small, signal: mine.signal,
  }));
  showProblem(byId("problem"), null);
  byId("panels").className = both ? "panels two" : "panels";
  byId("panels").replaceChildren(...panels.map(({ element }) => element));
  if (matchMedia("(max-width: 48rem)").matches) byId("panels").scrollIntoView({ behavior: calm() ? "auto" : "smooth" });
  byId("go").textContent = "Certifying …";
  await Promise.all(panels.map((each) => each.run()));
  if (running === mine) byId("go").textContent = "Certify again";
}

// The service converts models when it starts; until then the button is disabled.
async function ready() {
  const go = byId("go");
  while (!served.ready) {
    go.disabled = true;
    go.textContent = "Preparing models …";
    await new Promise((later) => setTimeout(later, 500));
    served = await get("/v1/models");
  }
  go.disabled = false;
  go.textContent = "Certify";
}

export async function start() {
  served = await get("/v1/models");
  byId("classifier").replaceChildren(...served.models.map(({ classifier }) => h("option", { value: classifier }, classifier)));
  byId("classifier-field").hidden = served.models.length === 1;
  byId("classifier").addEventListener("change", showModel);
  byId("controls").addEventListener("submit", certify);
  byId("examples").addEventListener("keydown", arrows);
  byId("file").addEventListener("change", () => take(byId("file").files[0]));
  const drop = byId("drop");
  for (const name of ["dragover", "dragenter"]) drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => { event.preventDefault(); take(event.dataTransfer.files[0]); });
  addEventListener("pagehide", () => running?.abort());
  await showModel();
  await ready();
  document.documentElement.dataset.ready = "certify";
}
