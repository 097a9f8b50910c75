// Small charts: a line that grows, and steps with the values under the pointer.

import { down, h, s, thousands } from "./dom.js";

const short = (n) => (n >= 1000 ? `${n / 1000}k` : String(n));

// One number against the copies so far.
export function growing({ name, top, rule, format }) {
  const width = 260, height = 130, bottom = height - 20, right = width - 4;
  const curve = s("path", { class: "curve" });
  const now = s("circle", { class: "now", r: 3.5, cx: 0, cy: bottom, visibility: "hidden" });
  const last = s("text", { x: right, y: height - 3, "text-anchor": "end" }, "");
  const highest = s("text", { x: 0, y: 10 }, "");
  const ruled = rule === undefined ? null : s("line", { class: "rule", x1: 0, x2: right });
  const label = s("text", { x: 0, y: 0, "text-anchor": "middle", visibility: "hidden" });
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": name },
    s("line", { class: "axis", x1: 0, x2: right, y1: bottom, y2: bottom }), ruled, highest,
    s("text", { x: 0, y: height - 3 }, "0"), last, curve, now, label);
  const value = h("p", { class: "value" }, "–");
  let points = [], max = 1, scale = top;

  const x = (n) => (n / max) * right;
  const y = (v) => bottom - (v / scale) * (bottom - 18);

  function draw() {
    scale = Math.max(top, ...points.map(([, v]) => v * 1.05));
    highest.textContent = format(scale, 1);
    if (ruled) for (const end of ["y1", "y2"]) ruled.setAttribute(end, y(rule));
    curve.setAttribute("d", points.map(([n, v], i) => `${i ? "L" : "M"}${x(n).toFixed(1)} ${y(v).toFixed(1)}`).join(""));
    const [n, v] = points.at(-1);
    now.setAttribute("cx", x(n));
    now.setAttribute("cy", y(v));
    now.setAttribute("visibility", "visible");
    value.textContent = format(v);
    svg.setAttribute("aria-label", `${name}: ${format(v)} after ${thousands(n)} copies`);
  }

  function show(event) {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * width;
    const near = points.reduce((best, p) => (Math.abs(x(p[0]) - at) < Math.abs(x(best[0]) - at) ? p : best));
    label.textContent = `${format(near[1])} at ${thousands(near[0])}`;
    label.setAttribute("x", Math.min(Math.max(x(near[0]), 55), right - 55));
    label.setAttribute("y", Math.max(y(near[1]) - 8, 10));
    label.setAttribute("visibility", "visible");
  }
  svg.addEventListener("pointermove", (event) => points.length && show(event));
  svg.addEventListener("pointerleave", () => label.setAttribute("visibility", "hidden"));

  return {
    element: h("div", { class: "chart" }, value, svg),
    add(n, v, of) {
      max = Math.max(of, n);
      last.textContent = `${short(max)} copies`;
      points.push([n, v]);
      draw();
    },
  };
}

const DASHES = ["", "7 4", "2 3", "9 3 2 3"];
const COLOURS = 6;

// Steps of certified accuracy: curves of {method, sigma, radii, shares}.
export function steps(curves, measure) {
  const width = Math.min(760, Math.max(320, innerWidth - 32)), height = Math.min(360, width * 0.75), left = 48, bottom = height - 40, right = width - 10, top = 12;
  const methods = [...new Set(curves.map((curve) => curve.method))];
  const sigmas = [...new Set(curves.map((curve) => curve.sigma))].sort((a, b) => a - b);
  const max = Math.max(0.1, ...curves.map((curve) => curve.radii.at(-1))) * 1.04;
  const x = (radius) => left + (radius / max) * (right - left);
  const y = (share) => bottom - share * (bottom - top);
  const stroke = (curve) => ({
    fill: "none", "stroke-width": 2, "stroke-dasharray": DASHES[sigmas.indexOf(curve.sigma) % DASHES.length],
    stroke: `var(--curve-${(methods.indexOf(curve.method) % COLOURS) + 1})`,
  });
  const tick = [1, 0.5, 0.25, 0.2, 0.1, 0.05, 0.02, 0.01].find((step) => max / step >= (width < 500 ? 3 : 5)) ?? 0.01;
  const ticks = Array.from({ length: Math.floor(max / tick) + 1 }, (_, i) => i * tick);
  const cross = s("line", { class: "cross", y1: top, y2: bottom, visibility: "hidden" });
  const svg = s("svg", {
    viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: 0,
    "aria-label": `Curves of ${measure} against the L2 radius; arrow keys move along the radius`,
  },
  [0, 0.25, 0.5, 0.75, 1].map((share) => [
    s("line", { class: "axis", x1: left, x2: right, y1: y(share), y2: y(share) }),
    s("text", { x: left - 8, y: y(share) + 4, "text-anchor": "end" }, `${100 * share} %`),
  ]),
  ticks.map((radius) => s("text", { x: x(radius), y: bottom + 18, "text-anchor": "middle" }, String(Number(radius.toFixed(3))))),
  s("text", { x: (left + right) / 2, y: height - 4, "text-anchor": "middle" }, "L2 radius (pixel values from 0 to 1)"),
  curves.map((curve) => {
    let path = `M${x(0)} ${y(curve.shares[0])}`;
    for (let i = 1; i < curve.radii.length; i++) path += `H${x(curve.radii[i]).toFixed(1)}V${y(curve.shares[i]).toFixed(1)}`;
    return s("path", { ...stroke(curve), d: path });
  }), cross);

  const cells = curves.map(() => h("b", {}, ""));
  const where = h("p", { class: "soft", "aria-live": "off" }, "");
  const legend = h("ul", { class: "legend" }, curves.map((curve, i) => h("li", {},
    s("svg", { viewBox: "0 0 32 10", "aria-hidden": true }, s("line", { ...stroke(curve), x1: 0, x2: 32, y1: 5, y2: 5 })),
    h("span", {}, `${curve.method}, σ = ${curve.sigma}`), cells[i])));
  let at = 0;

  function show(radius) {
    at = Math.min(Math.max(radius, 0), max);
    cross.setAttribute("x1", x(at));
    cross.setAttribute("x2", x(at));
    cross.setAttribute("visibility", "visible");
    where.textContent = `${measure} at radius ${at.toFixed(3)}`;
    curves.forEach((curve, i) => {
      // Certified at r means a radius of at least r, so the step itself still counts.
      const passed = curve.radii.slice(1).filter((radius) => radius < at).length;
      cells[i].textContent = `${down(100 * curve.shares[passed], 1)} %`;
    });
  }
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    show(((((event.clientX - box.left) / box.width) * width - left) / (right - left)) * max);
  });
  svg.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (move) { show(at + (move * max) / 50); event.preventDefault(); }
  });
  show(0);
  return h("figure", { class: "chart curves" }, svg, h("figcaption", {}, where, legend));
}
