// The probability of each slice, from the first to the last, as a strip one can click on.

const SVG = "http://www.w3.org/2000/svg";

/** Draws a strip of the findings of some networks; `choose` gets the index of a slice. */
export function drawStrip(svg, view, shown, choose) {
  const count = view.numbers.length;
  svg.setAttribute("viewBox", `0 0 ${count} 1`);
  svg.replaceChildren(
    ...shown.flatMap((network, row) =>
      view.findings[network].slice_probabilities.map((probability, index) => {
        const bar = document.createElementNS(SVG, "rect");
        const height = (probability ?? 0) / shown.length;
        const attributes = { x: index, width: 1, y: (row + 1) / shown.length - height, height };
        for (const [name, value] of Object.entries(attributes)) bar.setAttribute(name, value);
        bar.setAttribute("class", `network${network % 3}`);
        return bar;
      }),
    ),
  );
  svg.onclick = (event) => {
    const box = svg.getBoundingClientRect();
    choose(Math.min(count - 1, Math.floor(((event.clientX - box.left) / box.width) * count)));
  };
}
