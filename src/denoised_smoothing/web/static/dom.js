// Elements without markup in strings: texts from the service are never parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "width%") element.style.width = `${value}%`;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

export const h = (tag, properties = {}, ...children) =>
  fill(document.createElement(tag), properties, children);

export const s = (tag, properties = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), properties, children);

export const byId = (id) => document.getElementById(id);

export const thousands = (number) => number.toLocaleString("en-US");

// Rounds down: a radius that is rounded up is not proven.
export function down(value, digits = 4) {
  const scale = 10 ** digits;
  return (Math.floor(Number((value * scale).toFixed(6))) / scale).toFixed(digits);
}

export const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

export function radios(box, name, options, chosen, changed) {
  box.replaceChildren(
    ...options.map(({ value, text, title }) =>
      h("label", { title },
        h("input", { type: "radio", name, value, checked: String(value) === String(chosen), onchange: changed }),
        text)),
  );
}

export const picked = (name) => document.querySelector(`input[name="${name}"]:checked`)?.value;

export function showProblem(box, error) {
  box.textContent = error ? error.message : "";
  box.hidden = !error;
}
