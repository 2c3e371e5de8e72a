// What the networks say of a case, in words.

import { make, percent } from "/static/elements.js";

const INVOLVED = {
  grade: "Grade",
  bilateral: "In both lungs",
  peripheral: "In the outer third",
  dorsal: "In the back half",
  lower: "In the lower half",
};
const opened = new Set(); // details that stay open when the findings are drawn again

/** Draws the findings; `facts` gets the index of a network and returns a promise of its facts. */
export function showFindings(box, view, networks, facts) {
  box.replaceChildren(...view.findings.map((finding, index) => article(finding, index, view, networks[index], facts)));
}

function article(finding, index, view, network, facts) {
  const parts = [make("h3", {}, finding.network)];
  const outputs = Object.entries(finding.probabilities);
  if (!outputs.length) parts.push(make("p", {}, view.summary.failed ? "No answer." : "Waiting …"));
  const { slices, finished } = view.summary;
  let what = slices > 1 ? "mean over slices" : "calibrated probability";
  if (!network.classifies) what = "expected share of the lungs involved";
  if (finished < slices) what += `, so far of ${finished} of ${slices}`;
  for (const [name, value] of outputs) {
    parts.push(
      make(
        "p",
        { class: "probability" },
        make("b", {}, percent(value)),
        ` ${network.classifies ? `${name}, ` : ""}${what}`,
        make("meter", { min: 0, max: 1, value, "aria-label": name }),
      ),
    );
  }
  if (finding.decision && outputs.length) {
    const threshold = percent(finding.threshold);
    parts.push(make("p", {}, make("b", {}, finding.decision), ` at the threshold of ${threshold}`));
  }
  if (finding.meaning) parts.push(make("p", { class: "meaning" }, finding.meaning.text));
  for (const [text, count] of Object.entries(finding.warnings)) {
    const where = view.summary.slices > 1 ? ` (${count} of ${view.summary.slices} slices)` : "";
    parts.push(make("p", { class: "warning" }, make("b", {}, "Warning: "), text + where));
  }
  if (finding.involvement.involved !== undefined) parts.push(involvement(finding.involvement));
  parts.push(details(`facts-${index}`, "What it may be confounded by", (body) => fillFacts(body, facts(index), network)));
  parts.push(details(`about-${index}`, "About this network", (body) => body.replaceChildren(...about(network))));
  return make("article", {}, ...parts);
}

function involvement(found) {
  const rows = [["Share of the lungs involved", percent(Number(found.involved))]];
  for (const [key, title] of Object.entries(INVOLVED)) {
    if (found[key]) rows.push([title, Number.isNaN(Number(found[key])) ? found[key] : percent(Number(found[key]))]);
  }
  return make("table", {}, ...rows.map(([title, text]) => make("tr", {}, make("th", { scope: "row" }, title), make("td", {}, text))));
}

/** A part that is filled when it is opened. */
function details(key, title, fill) {
  const body = make("div");
  const element = make("details", { open: opened.has(key) }, make("summary", {}, title), body);
  element.refill = () => fill(body);
  element.addEventListener("toggle", () => {
    if (element.open) {
      opened.add(key);
      fill(body);
    } else opened.delete(key);
  });
  return element;
}

/** Fills open parts anew: they are of the slice that is shown. */
export function refreshFacts(box) {
  for (const element of box.querySelectorAll("details[open]")) element.refill();
}

async function fillFacts(body, promise, network) {
  const facts = await promise.catch(() => null);
  if (facts === null) body.replaceChildren("Not known for this slice.");
  else if (!facts.length) {
    const text =
      network.prevalence === null
        ? "Not known for this network."
        : "No fact beside the disease went with the class in its training.";
    body.replaceChildren(text);
  } else {
    const items = facts.map((fact) => {
      const outside = fact.value < fact.lowest || fact.value > fact.highest;
      const value = `${fact.value.toPrecision(3)} ${fact.unit}`.trim();
      return make(
        "li",
        {},
        make("b", {}, `${fact.name} ${value}: `),
        `of the ${fact.count} training images closest in it, ${percent(fact.share)} have ${network.outputs[0]} `,
        `(of all ${percent(fact.overall)})`,
        outside ? "; outside of what training images have" : "",
      );
    });
    const text = "Of the slice shown. These say nothing about the lungs, but went with the class in training; the network may have learned them instead.";
    body.replaceChildren(make("p", {}, text), make("ul", {}, ...items));
  }
}

function about(network) {
  const lines = [`Trained on ${network.trained_on} (${network.modality || "images of unknown kind"}), checkpoint ${network.step}.`];
  if (network.prevalence !== null) lines.push(`Of its validation images ${percent(network.prevalence)} show ${network.outputs[0]}.`);
  lines.push(...network.scores);
  if (!network.scores.length) lines.push("No evaluation of it is known here, and so not what its answers are worth.");
  return lines.map((line) => make("p", {}, line));
}
