// The view of stored runs.

import { download, get } from "./api.js";
import { steps } from "./chart.js";
import { byId, showProblem, down, h, thousands } from "./dom.js";

const chosen = new Set();
const query = (names) => names.map((name) => `run=${encodeURIComponent(name)}`).join("&");
const path = (name) => `/v1/runs/${encodeURIComponent(name)}`;

function table(headings, rows, caption, captioned = true) {
  return h("div", { class: "wide", tabindex: 0, role: "region", "aria-label": caption },
    h("table", {}, captioned ? h("caption", {}, caption) : null, h("thead", {}, h("tr", {}, headings.map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((text) => h("td", {}, text)))))));
}

function list(runs) {
  if (!runs.length) {
    return h("p", { class: "empty" }, "The store has no runs. ", h("code", {}, "denoised-smoothing certify"), " adds one; use the same ", h("code", {}, "--store"), ".");
  }
  const compare = h("button", { type: "button", class: "primary", onclick: () => show([...chosen]) }, "Compare");
  const update = () => {
    compare.disabled = chosen.size < 1;
    compare.textContent = chosen.size > 1 ? `Compare ${chosen.size} runs` : "Show the chosen run";
  };
  const row = (run) => h("tr", {},
    h("td", {}, h("input", {
      type: "checkbox", "aria-label": `choose ${run.run}`, checked: chosen.has(run.run),
      onchange: (event) => { chosen[event.target.checked ? "add" : "delete"](run.run); update(); },
    })),
    h("td", {}, h("a", { href: `#runs/${encodeURIComponent(run.run)}` }, run.run)),
    h("td", {}, run.data), h("td", {}, run.denoiser === "none" ? "–" : run.denoiser),
    h("td", { class: "number" }, String(run.sigma)), h("td", { class: "number" }, thousands(run.finished)),
    h("td", {}, run.created.slice(0, 16).replace("T", " ")));
  update();
  return h("div", {},
    h("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "Stored runs" }, h("table", { class: "run-table" },
      h("thead", {}, h("tr", {}, h("th", {}, h("span", { class: "skip" }, "choose")),
        ["Run", "Data", "Denoiser"].map((text) => h("th", { scope: "col" }, text)),
        ["σ", "Images"].map((text) => h("th", { scope: "col", class: "number" }, text)), h("th", { scope: "col" }, "Started (UTC)"))),
      h("tbody", {}, runs.map(row)))),
    h("div", { class: "actions" }, compare));
}

async function images(name) {
  const { total, images: rows } = await get(`${path(name)}/images?limit=1000`);
  const cells = (image) => [
    h("button", { type: "button", onclick: () => details(name, image.index) }, image.image_id),
    image.true_label ?? "–", image.label ?? "abstains", down(image.radius),
    image.correct === null ? "–" : h("span", { class: image.correct ? "correct" : "wrong" }, image.correct ? "yes" : "no"),
    thousands(image.calls)];
  const shown = table(["Image", "True label", "Answer", "Radius", "Correct", "Calls"], rows.map(cells), "Images", false);
  shown.classList.add("image-table");
  return h("div", {}, h("h2", {}, `${thousands(total)} images`), h("p", { class: "soft" }, "Choose an image to see its votes."), shown);
}

async function details(name, index) {
  const image = await get(`${path(name)}/images/${index}`);
  const strip = (kind) => image.pictures[kind] ? h("figure", { class: kind },
    h("div", { class: "strip" }, image.pictures[kind].map((src) => h("img", { src, alt: kind, class: "small" }))), h("figcaption", {}, kind)) : null;
  const dialog = h("dialog", { "aria-label": `Image ${image.image_id}` },
    h("button", { type: "button", class: "plain close", onclick: () => dialog.close() }, "Close"),
    h("h2", {}, image.label === null ? "Abstains" : `“${image.label}” within radius ${down(image.radius)}`),
    h("div", { class: "pictures" }, strip("clean"), h("div", { class: "copies" }, strip("noisy"), strip("denoised"))),
    h("h3", {}, `Votes of ${thousands(image.counted)} copies`),
    h("div", { class: "votes" }, image.votes.map(({ name: label, count }) => h("div", { class: "vote" }, h("span", {}, label),
      h("i", { class: label === (image.true_label ?? image.label) ? "chosen" : "", "width%": (100 * count) / image.counted }), h("b", {}, thousands(count))))),
    h("p", { class: "soft" }, `Image ${image.image_id}` + (image.true_label === null ? "" : `, true label “${image.true_label}”`) +
      `; ${thousands(image.calls)} classifier calls, lower bound ${down(image.certificate.lower_bound)}.`));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

function downloads(names) {
  const button = (text, from, name) => h("button", { type: "button", class: "plain", onclick: () => download(from, name) }, text);
  const single = names.length === 1 ? ["tsv", "csv", "parquet"].map((kind) => button(kind, `${path(names[0])}/export?format=${kind}`, `${names[0].replaceAll("/", "-")}.${kind}`)) : [];
  return h("div", { class: "actions" }, h("span", { class: "soft" }, "Download"), single, button("HTML report", `/v1/report?${query(names)}`, "report.html"));
}

function settings(run) {
  const text = (value) => (typeof value === "string" ? value : JSON.stringify(value));
  const all = { ...run.settings, created: run.created };
  return h("details", {}, h("summary", {}, "Run settings"), h("table", { class: "settings" }, h("tbody", {},
    Object.entries(all).map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, text(value)))))));
}

async function show(names) {
  const box = byId("runs-detail");
  showProblem(byId("runs-problem"), null);
  try {
    const compared = await get(`/v1/comparison?${query(names)}`);
    const parts = [
      h("h2", {}, names.length === 1 ? names[0] : `Comparison of ${names.length} runs`),
      compared.differing.length ? h("p", { class: "wrong" }, `The runs differ in ${compared.differing.join(", ")}, so their rows are not comparable as they stand.`) : null,
      compared.unproven.length ? h("p", { class: "wrong" }, `Unproven in floating point (float noise): ${compared.unproven.join(", ")}.`) : null,
      steps(compared.curves, compared.measure),
      ...compared.tables.map(({ caption, headings, rows }) => table(headings, rows, caption)),
      h("h3", {}, "Conditions of the proven bounds"),
      h("ul", {}, compared.conditions.map(({ about, text, verdict, known }) => h("li", {}, `For ${about}: ${text} ${verdict} (${known})`))),
      downloads(names),
    ];
    if (names.length === 1) parts.push(settings(await get(path(names[0]))), await images(names[0]));
    box.replaceChildren(...parts.filter(Boolean));
    box.scrollIntoView({ block: "start" });
  } catch (error) {
    box.replaceChildren();
    showProblem(byId("runs-problem"), error);
  }
}

export async function showRuns(name) {
  try {
    byId("runs-list").replaceChildren(list(await get("/v1/runs")));
    if (name) await show([name]);
    document.documentElement.dataset.ready = "runs";
  } catch (error) {
    showProblem(byId("runs-problem"), error);
  }
}
