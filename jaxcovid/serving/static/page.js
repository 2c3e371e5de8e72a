// The page: files in, cases in a list, one of them in the viewer.

import { byId, make, percent } from "/static/elements.js";
import { ask, save } from "/static/server.js";
import { Viewer } from "/static/viewer.js";

const AT_ONCE = 3; // files on their way
const WAIT_S = 20; // for news of the server

const status = byId("status");
const networks = await ask("/api/networks").then((answer) => answer.json(), report);
let session = null;
let version = -1;
let sending = [];
let running = 0;
let refused = []; // files that the server did not take: {name, error}
let state = { files: {}, problems: [], cases: [] };
let wanted = null; // number of the case that is shown
const viewer = new Viewer(networks, () => session, (text) => (status.textContent = text));

function report(error) {
  status.textContent = error.message;
  throw error;
}

async function open() {
  session = (await (await ask("/api/sessions", { method: "POST" })).json()).session;
  version = -1;
  listen(session);
}

/** Follows the session until it is closed. */
async function listen(key) {
  let interrupted = false;
  while (key === session) {
    try {
      const path = `/api/sessions/${key}?after=${version}&wait=${WAIT_S}`;
      const news = await (await ask(path)).json();
      if (news.version !== version || interrupted) show(news);
      version = news.version;
      interrupted = false;
    } catch (error) {
      if (error.status === 404) {
        status.textContent = "The server has closed this page: reload it to go on.";
        return;
      }
      interrupted = true;
      status.textContent = `The server does not answer (${error.message}); trying again.`;
      await new Promise((resolve) => setTimeout(resolve, 2000));
    }
  }
}

function show(news) {
  state = news;
  showProgress();
  const list = byId("cases");
  for (const summary of news.cases) {
    const old = list.querySelector(`[data-case="${summary.number}"]`);
    const fresh = caseItem(summary);
    if (old) {
      const focused = old.contains(document.activeElement);
      old.replaceWith(fresh);
      if (focused) fresh.querySelector("button").focus();
    } else list.append(fresh);
  }
  byId("save-table").disabled = news.cases.length === 0;
  if (wanted === null && news.cases.length) choose(news.cases[0].number);
  else if (wanted !== null) viewer.update(news.cases[wanted]);
}

function showProgress() {
  const counts = state.files;
  const finished = (counts.done ?? 0) + (counts.failed ?? 0) + (counts["left out"] ?? 0);
  const all = Object.values(counts).reduce((sum, n) => sum + n, 0) + sending.length;
  const slices = state.cases.reduce((sum, each) => sum + each.slices, 0);
  const screened = state.cases.reduce((sum, each) => sum + each.finished, 0);
  const bar = byId("progress");
  bar.hidden = all === 0 || (finished === all && screened === slices);
  bar.value = all ? (finished + (slices ? screened / slices : 0)) / (all + (slices ? 1 : 0)) : 0;
  if (all) status.textContent = `${finished} of ${all} files, ${screened} of ${slices} slices screened`;
  const problems = [...refused, ...state.problems];
  const box = byId("problems");
  box.hidden = problems.length === 0;
  box.querySelector("summary").textContent = `${problems.length} files were not screened`;
  box.querySelector("ul").replaceChildren(
    ...problems.map((each) => make("li", {}, make("b", {}, each.name), ` ${each.error}`)),
  );
}

function caseItem(summary) {
  const lines = networks.map((network, index) =>
    make(
      "span",
      { class: "answer" },
      networks.length > 1 ? `${network.name}: ` : "",
      make("b", {}, percent(summary.probabilities[index])),
      ` ${summary.decisions[index]}`,
    ),
  );
  const { finished, slices } = summary;
  const count = slices > 1 ? `${summary.kind}, ${finished < slices ? `${finished} of ` : ""}${slices} slices` : "";
  const attributes = { type: "button", onclick: () => choose(summary.number) };
  if (summary.number === wanted) attributes["aria-current"] = "true";
  const button = make("button", attributes, make("span", { class: "name" }, summary.title), ...lines);
  if (count) button.append(make("span", { class: "count" }, count));
  return make("li", { "data-case": summary.number }, button);
}

function choose(number) {
  wanted = number;
  for (const item of byId("cases").children) {
    const button = item.querySelector("button");
    if (Number(item.dataset.case) === number) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
  viewer.show(state.cases[number]);
}

// Files.

function send(files) {
  sending.push(...files);
  showProgress();
  while (running < AT_ONCE && sending.length) next();
}

async function next() {
  running += 1;
  while (sending.length) {
    const file = sending.shift();
    try {
      const path = `/api/sessions/${session}/files?name=${encodeURIComponent(file.path)}`;
      await ask(path, { method: "POST", body: file.content });
    } catch (error) {
      refused.push({ name: file.path, error: error.message });
    }
    showProgress();
  }
  running -= 1;
}

/** All files below what was dropped. */
async function filesOf(entry) {
  if (entry.isFile) {
    const content = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [{ content, path: entry.fullPath.replace(/^\//, "") }];
  }
  const reader = entry.createReader();
  const files = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return files;
    for (const each of some) files.push(...(await filesOf(each)));
  }
}

const named = (content) => ({ content, path: content.webkitRelativePath || content.name });
const visible = (file) => !file.content.name.startsWith(".");

const drop = byId("drop");
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) drop.classList.remove("over");
});
document.addEventListener("drop", async (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  const items = [...event.dataTransfer.items];
  const entries = items.map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const plain = [...event.dataTransfer.files].map(named);
  const files = entries.length ? (await Promise.all(entries.map(filesOf))).flat() : plain;
  send(files.filter(visible));
});
for (const kind of ["file", "folder"]) {
  const input = byId(`${kind}-input`);
  byId(kind === "file" ? "choose-files" : "choose-folder").addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    send([...input.files].map(named).filter(visible));
    input.value = "";
  });
}

byId("save-table").addEventListener("click", () =>
  save(`/api/sessions/${session}/table.csv`, "jaxcovid.csv").catch((error) => {
    status.textContent = `Nothing was saved: ${error.message}`;
  }),
);

// Nothing is kept: the server is told when the page goes.
addEventListener("pagehide", () => {
  const key = session;
  session = null;
  if (key) ask(`/api/sessions/${key}`, { method: "DELETE", keepalive: true }).catch(() => {});
});
addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});

await open().catch(report);
document.body.dataset.ready = "true";
