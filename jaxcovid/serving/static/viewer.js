// The viewer of one case: slices, layers, window, and what each network says.

import { byId, make, settled } from "/static/elements.js";
import { refreshFacts, showFindings } from "/static/findings.js";
import { hide, load, put, showLayer } from "/static/pictures.js";
import { ask, save } from "/static/server.js";
import { drawStrip } from "/static/strip.js";

const PRESETS = { HU: { Lung: [-600, 1500], Mediastinum: [40, 400], Bone: [400, 1800] }, "gray level": {} };
const RANGES = { HU: [-1200, 1200, 1, 3000], "gray level": [0, 255, 1, 510] }; // centre, width

export class Viewer {
  constructor(networks, session, tell) {
    this.networks = networks;
    this.session = session;
    this.tell = tell;
    this.shown = networks.map((_, index) => index); // of the panes
    this.view = null;
    this.window = null; // centre and width, or null for that of the network
    this.request = 0; // of pictures: a later one overtakes an earlier one
    this.caseRequest = 0;
    this.loadSoon = settled(40, () => this.loadSlice());
    this.updateSoon = settled(150, () => this.loadCase(false));
    this.connect();
  }

  get path() {
    return `/api/sessions/${this.session()}/cases/${this.number}`;
  }

  /** Of the request of a case: a prevalence that can be one. */
  get prevalenceQuery() {
    const share = Number(byId("prevalence").value) / 100;
    return share > 0 && share < 1 ? `?prevalence=${share}` : "";
  }

  get slice() {
    return this.view.numbers[Number(byId("slice").value)];
  }

  /** Shows another case. */
  show(summary) {
    this.number = summary.number;
    this.view = null;
    this.window = null;
    this.touched = false; // whether a person has chosen a slice
    byId("heatmap").value = 0;
    this.loadCase(true);
  }

  /** Takes news of the case that is shown. */
  update(summary) {
    if (this.view === null || JSON.stringify(summary) !== JSON.stringify(this.view.summary)) this.updateSoon();
  }

  async loadCase(first) {
    const request = ++this.caseRequest;
    let view;
    try {
      view = await (await ask(`${this.path}${this.prevalenceQuery}`)).json();
    } catch (error) {
      this.tell(`This case cannot be shown: ${error.message}`);
      return;
    }
    if (request !== this.caseRequest) return;
    const before = this.view && this.view.numbers.length ? this.slice : null;
    this.view = view;
    this.showCase(before, first);
  }

  showCase(before, first) {
    const { view } = this;
    byId("case-title").textContent = view.summary.title;
    byId("case-notes").textContent = view.notes.join("; ");
    byId("controls").hidden = false;
    const slider = byId("slice");
    slider.max = Math.max(0, view.numbers.length - 1);
    byId("slice-controls").hidden = view.numbers.length < 2;
    const done = view.summary.finished === view.summary.slices;
    const suspicious = view.findings[this.shown[0] ?? 0].most_suspicious;
    if (!this.touched && done && suspicious !== null) slider.value = view.numbers.indexOf(suspicious);
    else if (!this.touched && first) slider.value = Math.floor(view.numbers.length / 2);
    else slider.value = Math.max(0, view.numbers.indexOf(before));
    if (first) this.showWindow();
    this.makePanes();
    drawStrip(byId("strip"), view, this.shown, (index) => this.choose(index));
    this.showAnswers();
    this.loadSlice();
  }

  showAnswers() {
    const known = this.networks.some((network) => network.prevalence !== null);
    byId("prevalence-control").hidden = !known || this.view.summary.slices > 1;
    showFindings(byId("answers"), this.view, this.networks, (network) =>
      ask(`${this.path}/slices/${this.slice}/facts?network=${network}`).then((answer) => answer.json()),
    );
    const { failed, finished, slices } = this.view.summary;
    byId("save-picture").disabled = failed === slices;
    byId("save-report").disabled = failed === slices || finished < slices;
  }

  makePanes() {
    const { shown, networks } = this;
    const wanted = shown.join();
    const panes = byId("panes");
    if (panes.dataset.shown === wanted) return;
    panes.dataset.shown = wanted;
    panes.replaceChildren(
      ...shown.map((index) =>
        make(
          "figure",
          { "data-network": index },
          make(
            "div",
            { class: "layers" },
            make("img", { class: "gray", alt: "Slice" }),
            make("img", { class: "heatmap", alt: "", hidden: true }),
            make("img", { class: "contours", alt: "", hidden: true }),
          ),
          make("figcaption", {}, networks[index].name),
        ),
      ),
    );
    const outputs = [...new Set(shown.flatMap((index) => networks[index].explained))];
    byId("heatmap-control").hidden = outputs.length === 0;
    byId("output-control").hidden = outputs.length < 2;
    byId("output").replaceChildren(...outputs.map((name) => make("option", {}, name)));
    const segments = shown.some((index) => networks[index].segments);
    byId("contours-control").hidden = byId("legend").hidden = !segments;
  }

  showWindow() {
    const { unit } = this.view;
    const [centre, width] = this.window ?? this.view.window;
    const [lowest, highest, narrowest, widest] = RANGES[unit];
    byId("unit").textContent = unit;
    for (const [id, low, high, value] of [
      ["centre", lowest, highest, centre],
      ["width", narrowest, widest, width],
    ]) {
      Object.assign(byId(id), { min: low, max: high });
      byId(id).value = value;
      byId(`${id}-text`).textContent = Math.round(value);
    }
    const presets = { ...PRESETS[unit], "As the network sees it": null };
    byId("presets").replaceChildren(
      ...Object.entries(presets).map(([name, window]) =>
        make("button", { type: "button", onclick: () => this.setWindow(window) }, name),
      ),
    );
  }

  get windowQuery() {
    return this.window ? `&centre=${this.window[0]}&width=${this.window[1]}` : "";
  }

  setWindow(window) {
    this.window = window;
    this.showWindow();
    this.loadSoon();
  }

  choose(index) {
    this.touched = true;
    byId("slice").value = index;
    this.loadSoon();
    this.showPlace();
  }

  showPlace() {
    const index = Number(byId("slice").value);
    byId("slice-text").textContent = `${index + 1} of ${this.view.numbers.length}`;
    byId("slice").setAttribute("aria-valuetext", `slice ${index + 1} of ${this.view.numbers.length}`);
    byId("strip").style.setProperty("--place", (index + 0.5) / this.view.numbers.length);
    byId("previous").disabled = index === 0;
    byId("next").disabled = index === this.view.numbers.length - 1;
  }

  /** Loads the pictures of the slice; a later call overtakes an earlier one. */
  async loadSlice() {
    this.showPlace();
    const request = ++this.request;
    const path = `${this.path}/slices/${this.slice}`;
    const query = this.windowQuery;
    const error = this.view.errors[this.slice];
    byId("case-notes").textContent = error ?? this.view.notes.join("; ");
    const panes = [...byId("panes").children];
    const urls = new Map(); // through a window that is given all networks show one picture
    const gray = (pane) => {
      const address = `${path}/image.png?network=${this.window ? 0 : pane.dataset.network}${query}`;
      if (!urls.has(address)) urls.set(address, load(address));
      return urls.get(address);
    };
    const shown = await Promise.all(panes.map((pane) => (error ? null : gray(pane))));
    if (request !== this.request) return;
    // What lies over the slice before must not lie over this one.
    const moved = byId("panes").dataset.shows !== path;
    byId("panes").dataset.shows = path;
    panes.forEach((pane, i) => {
      put(pane.querySelector(".gray"), shown[i]);
      if (moved) for (const layer of pane.querySelectorAll(".heatmap, .contours")) hide(layer);
    });
    if (moved) refreshFacts(byId("answers"));
    await Promise.all(panes.flatMap((pane) => ["contours", "heatmap"].map((name) => this.loadLayer(pane, name, request, error ? null : path))));
    if (request === this.request) byId("panes").dataset.loaded = this.slice;
  }

  /** Loads one layer of a pane, or hides it. */
  async loadLayer(pane, name, request, path) {
    const index = Number(pane.dataset.network);
    const network = this.networks[index];
    const answered = this.view.findings[index].slice_probabilities[Number(byId("slice").value)] !== null;
    const output = Math.max(0, network.explained.indexOf(byId("output").value));
    const available = name === "heatmap" ? network.explained.length > 0 : network.segments && answered;
    const visible = path && available && Number(byId(name).value) > 0;
    const extra = name === "heatmap" ? `&output=${output}` : "";
    const layer = pane.querySelector(`.${name}`);
    layer.style.opacity = byId(name).value;
    const address = visible ? `${path}/${name}.png?network=${index}${extra}` : "";
    await showLayer(layer, address, () => request === this.request);
  }

  connect() {
    byId("controls").addEventListener("submit", (event) => event.preventDefault());
    byId("slice").addEventListener("input", () => this.choose(byId("slice").value));
    byId("previous").addEventListener("click", () => this.choose(Number(byId("slice").value) - 1));
    byId("next").addEventListener("click", () => this.choose(Number(byId("slice").value) + 1));
    byId("suspicious").addEventListener("click", () => {
      const { most_suspicious: number } = this.view.findings[this.shown[0]];
      if (number !== null) this.choose(this.view.numbers.indexOf(number));
    });
    for (const id of ["centre", "width"]) {
      byId(id).addEventListener("input", () => {
        this.window = [Number(byId("centre").value), Number(byId("width").value)];
        byId(`${id}-text`).textContent = byId(id).value;
        this.loadSoon();
      });
    }
    for (const name of ["heatmap", "contours"]) {
      byId(name).addEventListener("input", () => {
        for (const layer of document.querySelectorAll(`.layers .${name}`)) layer.style.opacity = byId(name).value;
        const missing = [...document.querySelectorAll(`.layers .${name}`)].some((layer) => layer.hidden);
        if (missing || Number(byId(name).value) === 0) this.loadSoon();
      });
    }
    byId("output").addEventListener("change", () => this.loadSoon());
    byId("prevalence").addEventListener("input", () => this.updateSoon());
    byId("panes").addEventListener(
      "wheel",
      (event) => {
        if (!this.view || this.view.numbers.length < 2 || event.ctrlKey) return;
        event.preventDefault();
        const index = Number(byId("slice").value) + Math.sign(event.deltaY);
        if (index >= 0 && index < this.view.numbers.length) this.choose(index);
      },
      { passive: false },
    );
    byId("save-picture").addEventListener("click", () => {
      const [network] = this.shown;
      const output = Math.max(0, this.networks[network].explained.indexOf(byId("output").value));
      const layers = `output=${output}&heatmap=${byId("heatmap").value}&contours=${Number(byId("contours").value) > 0}`;
      const path = `${this.path}/slices/${this.slice}/overlay.png?network=${network}&${layers}${this.windowQuery}`;
      save(path, "jaxcovid_slice.png").catch((error) => this.tell(`Nothing was saved: ${error.message}`));
    });
    byId("save-report").addEventListener("click", () => {
      const path = `${this.path}/report.pdf${this.prevalenceQuery}`;
      save(path, "jaxcovid_report.pdf").catch((error) => this.tell(`Nothing was saved: ${error.message}`));
    });
    this.connectNetworks();
  }

  /** Which networks are shown side by side. */
  connectNetworks() {
    const { networks } = this;
    if (networks.length < 2) return;
    byId("compare").replaceChildren(
      "Compare: ",
      ...networks.map((network, index) => {
        const change = (event) => {
          const kept = this.shown.filter((each) => each !== index);
          const shown = event.target.checked ? [...kept, index].sort((a, b) => a - b) : kept;
          if (!shown.length) event.target.checked = true;
          else this.shown = shown;
          this.makePanes();
          this.loadSlice();
          drawStrip(byId("strip"), this.view, this.shown, (place) => this.choose(place));
        };
        return make("label", {}, make("input", { type: "checkbox", checked: true, onchange: change }), ` ${network.name}`);
      }),
    );
  }
}
