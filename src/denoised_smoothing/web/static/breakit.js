// "Attack the image": an attack of a chosen length, and whether the answer changes.

import { post } from "./api.js";
import { down, h } from "./dom.js";

export function breaking({ fields, image, label, name, radius, small, signal }) {
  const shown = h("output", {}, "");
  const slider = h("input", { type: "range", min: 0.25, max: 6, step: 0.25, value: 1, "aria-label": "Length of the attack, in radii" });
  const button = h("button", { type: "button", class: "plain" }, "Attack the image");
  const tries = h("ul", { class: "tries", "aria-live": "polite" });
  const length = () => Number(slider.value) * radius;

  function show() {
    const share = Number(slider.value);
    shown.textContent = `${down(length())} (${share} × R)`;
    slider.setAttribute("aria-valuetext", `${share} times the radius`);
  }
  slider.addEventListener("input", show);
  show();

  function row({ attack, label_name: other, image: { picture } }) {
    const inside = attack.norm < radius;
    const verdict = {
      stands: `The answer is still “${name}”.`,
      falls: `The answer changed to “${other}”.`,
      open: "The classifier abstains.",
    }[attack.outcome];
    const outside = "Outside the radius nothing is proven.";
    const why = {
      stands: inside ? "The change is inside the radius, so the answer is certified." : `${outside} This attack found no change that works.`,
      falls: inside ? "The change is inside the radius: this happens with probability at most α." : outside,
      open: inside ? "This check uses fewer copies than the certificate, which still holds." : outside,
    }[attack.outcome];
    const look = attack.outcome === "stands" ? "correct" : attack.outcome === "open" && inside ? "soft" : "wrong";
    const form = small ? "small" : "";
    return h("li", { "data-outcome": attack.outcome },
      h("img", { src: attack.change, alt: "the change", class: form }),
      h("img", { src: picture, alt: "the attacked image", class: form }),
      h("span", {}, h("strong", { class: look }, verdict), `Length ${down(attack.norm)}. ${why}`));
  }

  button.addEventListener("click", async () => {
    button.disabled = true;
    button.textContent = "Attacking …";
    try {
      const { plan, n, n0, max_n, radii, ...names } = fields;
      const request = { ...names, label, epsilon: length() };
      tries.prepend(row(await post("/v1/attacks", request, image, () => {}, signal)));
    } catch (error) {
      tries.prepend(h("li", { class: "wrong" }, error.message));
    } finally {
      button.disabled = false;
      button.textContent = "Attack the image";
    }
  });

  return h("div", { class: "break block" }, h("h3", {}, "Attack the image", shown),
    h("p", { class: "soft" }, "The attack follows the gradient of denoiser and classifier to find a change of at most this length that changes the answer."),
    h("div", { class: "row" }, slider, button), tries);
}
