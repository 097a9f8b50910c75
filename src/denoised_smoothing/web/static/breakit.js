// "Try to break it": an attack of a chosen length, and whether the answer stands.

import { post } from "./api.js";
import { down, h } from "./dom.js";

export function breaking({ fields, image, label, name, radius, small, signal }) {
  const told = h("output", {}, "");
  const slider = h("input", { type: "range", min: 0.25, max: 6, step: 0.25, value: 1, "aria-label": "Length of the attack, in radii" });
  const button = h("button", { type: "button", class: "plain" }, "Try to break it");
  const tries = h("ul", { class: "tries", "aria-live": "polite" });
  const length = () => Number(slider.value) * radius;

  function tell() {
    const share = Number(slider.value);
    told.textContent = `${down(length())} (${share} × R)`;
    slider.setAttribute("aria-valuetext", `${share} times the radius`);
  }
  slider.addEventListener("input", tell);
  tell();

  function row({ attack, label_name: other, image: { picture } }) {
    const inside = attack.norm < radius;
    const said = {
      stands: `The answer stands: “${name}”.`,
      falls: `The answer falls: now “${other}”.`,
      open: "The copies no longer agree on an answer.",
    }[attack.outcome];
    const why = {
      stands: inside ? "As proven: this is inside the radius." : "Beyond the radius nothing is promised; this attack did not find a way.",
      falls: inside ? "This should not be: inside the radius the proof is wrong with probability at most α." : "Beyond the radius nothing is promised.",
      open: inside ? "These few copies do not tell; the certificate, from more of them, stands." : "Beyond the radius nothing is promised.",
    }[attack.outcome];
    const look = attack.outcome === "stands" ? "correct" : attack.outcome === "open" && inside ? "soft" : "wrong";
    const form = small ? "small" : "";
    return h("li", { "data-outcome": attack.outcome },
      h("img", { src: attack.change, alt: "the change", class: form }),
      h("img", { src: picture, alt: "the attacked image", class: form }),
      h("span", {}, h("strong", { class: look }, said), `Length ${down(attack.norm)}. ${why}`));
  }

  button.addEventListener("click", async () => {
    button.disabled = true;
    button.textContent = "Attacking …";
    try {
      const { plan, n, n0, max_n, radii, ...who } = fields;
      const asked = { ...who, label, epsilon: length() };
      tries.prepend(row(await post("/v1/attacks", asked, image, () => {}, signal)));
    } catch (error) {
      tries.prepend(h("li", { class: "wrong" }, error.message));
    } finally {
      button.disabled = false;
      button.textContent = "Try to break it";
    }
  });

  return h("div", { class: "break block" }, h("h3", {}, "Try to break it", told),
    h("p", { class: "soft" }, "An attacker who knows the classifier looks for the worst change of this length."),
    h("div", { class: "row" }, slider, button), tries);
}
