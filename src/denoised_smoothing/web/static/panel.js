// One panel: noisy copies, votes, bound and radius of one certificate, and its meaning.

import { post } from "./api.js";
import { breaking } from "./breakit.js";
import { growing } from "./chart.js";
import { calm, down, h, thousands } from "./dom.js";

const BEAT = 40; // milliseconds between events that are shown

export function panel({ title, fields, image, truth, small, signal }) {
  const answer = h("p", { class: "answer waiting", "aria-live": "polite" }, "Drawing noisy copies …");
  const done = h("i", { "width%": 0 });
  const grid = h("ul", { class: `grid${small ? "" : " large"}`, "aria-label": "Noisy copies and their labels" });
  const votes = h("div", { class: "votes" });
  const counted = h("small", {}, "");
  const bound = growing({ name: "Lower bound on the probability of the answer", top: 1, rule: 0.5, format: (v, d) => down(v, d ?? 3) });
  const radius = growing({ name: "Certified radius", top: 0.1, format: (v, d) => down(v, d ?? 3) });
  const note = h("p", { class: "soft" }, "");
  const meaning = h("div", { class: "block", hidden: true });
  const block = (name, more, ...children) => h("div", { class: "block" }, h("h3", {}, name, more), ...children);

  const element = h("section", { class: "panel", "aria-label": title, "aria-busy": "true" },
    h("header", {}, h("h2", {}, title), answer, h("div", { class: "bar" }, done)),
    block(fields.denoiser === "none" ? "Noisy copies" : "Noisy copies, denoised",
      h("small", {}, "the first copies"), grid),
    block("Votes", counted, votes),
    h("div", { class: "charts" },
      block("Lower bound", null, bound.element), block("Radius", null, radius.element)),
    note, meaning);

  const tag = (label, name) =>
    h("span", { class: `tag ${truth === null ? "" : name === truth ? "is" : "not"}` }, name ?? "–");

  function copies({ first, of, copies: shown }) {
    if (!grid.children.length) {
      for (let i = 0; i < of; i++) {
        grid.append(h("li", { "aria-hidden": true }, h("span", { class: "blank" }),
          fields.denoiser === "none" ? null : h("span", { class: "blank" }), h("span", { class: "tag" })));
      }
    }
    shown.forEach(({ noisy, denoised, label, name }, i) => {
      const form = small ? "small fresh" : "fresh";
      grid.children[first + i].replaceWith(h("li", {},
        h("img", { src: noisy, class: form, alt: `noisy copy ${first + i + 1}` }),
        denoised ? h("img", { src: denoised, class: form, alt: "denoised" }) : null,
        tag(label, name)));
    });
  }

  const rows = new Map();
  function vote(list, total) {
    const own = truth ?? list[0]?.name;
    for (const { name, count } of list) {
      if (!rows.has(name)) {
        const row = { bar: h("i"), number: h("b") };
        row.element = h("div", { class: "vote" }, h("span", { title: name }, name), row.bar, row.number);
        rows.set(name, row);
      }
      const row = rows.get(name);
      row.bar.className = name === own ? "chosen" : "";
      row.bar.style.width = `${(100 * count) / Math.max(total, 1)}%`;
      row.number.textContent = thousands(count);
    }
    for (const name of rows.keys()) if (!list.some((v) => v.name === name)) rows.delete(name);
    votes.replaceChildren(...list.map(({ name }) => rows.get(name).element));
    counted.textContent = total ? `${thousands(total)} copies` : "";
  }

  function progress(values) {
    done.style.width = `${(100 * values.calls) / values.of}%`;
    if (values.stage === "selection" || !values.n) return;
    vote(values.votes, values.counted);
    bound.add(values.n, values.lower_bound, values.of);
    radius.add(values.n, values.radius, values.of);
    if (values.radius > 0) answer.textContent = `“${values.votes[0].name}” so far …`;
    else answer.textContent = "Counting votes …";
    note.textContent = values.proven ? "" :
      "Bound and radius are preliminary: they hold when all copies are counted.";
  }

  function result(values) {
    const { certificate } = values;
    done.style.width = "100%";
    vote(values.votes, values.counted);
    if (values.counted >= (certificate.plan.n ?? 0)) { // ended early, the bound counts the rest as failures
      bound.add(values.counted, certificate.lower_bound, values.counted);
      radius.add(values.counted, values.radius, values.counted);
    }
    answer.className = "answer";
    answer.textContent = values.sentence;
    note.textContent = `${thousands(values.calls)} classifier calls, σ = ${certificate.sigma}, ` +
      `engine ${certificate.engine}, ${certificate.precision}. ${(certificate.notes ?? []).join(" ")} ${remark(values)}`;
    element.setAttribute("aria-busy", "false");
    element.dataset.state = "done";
    element.dataset.label = values.label_name ?? "abstains";
    element.dataset.radius = values.radius;
    if (values.label !== null) explain(values);
  }

  function remark({ label, label_name: name, image: { changes } }) {
    const changed = changes.length ? `The image was ${changes.join(" and ")}; the radius is in the pixels of the result. ` : "";
    if (label === null || truth === null) return changed;
    return changed + (name === truth ? "The answer is correct." : `The certificate is about the answer, which is wrong: the true label is “${truth}”.`);
  }

  function explain({ radius: length, label, label_name: name, image: { picture }, perturbation }) {
    const show = (src, text) => h("figure", {}, h("img", { src, alt: "", class: small ? "small" : "" }), h("figcaption", {}, text));
    const sum = perturbation ? [
      h("div", { class: "sum" }, show(picture, "the image"), h("span", { class: "sign", "aria-hidden": true }, "+"),
        show(perturbation.change, `a random change of length ${down(perturbation.norm)}`),
        h("span", { class: "sign", "aria-hidden": true }, "="), show(perturbation.image, `still “${name}”, as certified`)),
      h("p", { class: "soft" }, `No change shorter than ${down(length)} changes the answer, neither a random change nor the worst one. ` +
        `In this example a pixel changes by up to ${Math.round(255 * perturbation.largest)} of 255 levels.`),
    ] : [h("p", { class: "soft" }, "The radius is shorter than the smallest change of a pixel.")];
    meaning.replaceChildren(h("h3", {}, `A change within radius ${down(length)}`), ...sum,
      breaking({ fields, image, label, name, radius: length, small, signal }));
    meaning.hidden = false;
  }

  // Shows events one after the other, so that the eye can follow a fast machine.
  async function play() {
    const events = [];
    let ended = false;
    const running = post("/v1/certificates", fields, image, (event, values) => events.push([event, values]), signal)
      .finally(() => { ended = true; });
    running.catch(() => {});
    const show = { copies, progress, result, accepted: () => {} };
    while (!ended || events.length) {
      const due = calm() ? events.length : Math.ceil(events.length / 20);
      for (const [event, values] of events.splice(0, due)) show[event]?.(values);
      await new Promise((next) => setTimeout(next, BEAT));
    }
    await running;
  }

  return {
    element,
    async run() {
      try {
        await play();
      } catch (error) {
        element.setAttribute("aria-busy", "false");
        element.dataset.state = "failed";
        answer.textContent = signal.aborted ? "Stopped." : error.message;
      }
    },
  };
}
