// Sends what is dropped, pasted or chosen; what failed is kept, to be sent again.

import { byId, pause, post, say } from "/static/page.js";

const JUNK = /\/(\.|thumbs\.db|desktop\.ini|__macosx|@eadir|#recycle)/i;
const OPEN = ["waiting", "doubtful", "sending"];

// All that came, by path, size and time.
const items = new Map();
const those = (...states) => [...items.values()].filter(({ state }) => states.includes(state));

function add(file, path) {
  const key = [path, file.size, file.lastModified].join();
  const { state, row } = items.get(key) ?? {};
  if (JUNK.test(path) || OPEN.includes(state)) return;
  row?.remove();
  items.set(key, { key, file, path, state: isKnown(key) ? "doubtful" : "waiting" });
  draw();
}

function miss(item, state, why) {
  const row = document.createElement("li");
  row.textContent = `${item.path.slice(1)}: ${why}`;
  byId("missed").append(row);
  items.set(item.key, Object.assign(item, { state, row }));
  draw();
}

async function walk(entry) {
  const { fullPath: path } = entry;
  try {
    if (entry.isFile) return add(await new Promise((...done) => entry.file(...done)), path);
    const reader = entry.createReader();
    // Some at a time, and none at the end.
    for (let some; (some = await new Promise((...done) => reader.readEntries(...done)))[0]; ) {
      for (const one of some) await walk(one);
    }
  } catch {
    miss({ key: path, path }, "other", "can't be read: drop it again");
  }
}

function take({ items: given }) {
  for (const one of given) {
    if (one.kind !== "file") continue;
    const [entry, file] = [one.webkitGetAsEntry(), one.getAsFile()];
    if (entry) walk(entry);
    else add(file, `/${file.name}`);
  }
}

document.onpaste = ({ clipboardData }) => take(clipboardData);
ondragover = ondragleave = ondrop = ({ type, dataTransfer, relatedTarget }) => {
  if (relatedTarget) return;
  // What is dragged out of a page is text, too.
  const isOurs = dataTransfer.types.includes("Files") && !dataTransfer.types.includes("text/html");
  document.body.classList.toggle("drop", isOurs && type === "dragover");
  if (isOurs && type === "drop") take(dataTransfer);
  return !isOurs;
};
byId("add").onchange = ({ target }) => {
  for (const file of target.files) add(file, `/${file.webkitRelativePath || file.name}`);
  target.value = "";
  byId("add").hidePopover();
};

// -- what was taken is remembered, and looked for before it is sent again

let store = {};
try {
  store = localStorage;
} catch {
  // Refused.
}

// As a hash of 32 bits in one of 64 texts.
function isKnown(key, isTaken) {
  let hash = 0;
  for (const letter of key) hash = Math.imul(hash ^ letter.codePointAt(), 16777619);
  const [name, mark] = [`sent${hash & 63}`, `,${hash}`];
  const marks = store[name] ?? "";
  if (isTaken && !marks.includes(mark)) store[name] = (marks + mark).slice(-20_000);
  return marks.includes(mark);
}

let worker;

async function check() {
  if (worker) return;
  for (let batch; (batch = those("doubtful").slice(0, 100)).length; draw()) {
    worker = new Worker("/static/hash.js");
    worker.postMessage(batch.map(({ file }) => file));
    const hashes = await new Promise((done) => {
      worker.onmessage = ({ data }) => done(data);
      worker.onerror = () => done([]);
    });
    worker.terminate();
    const { data } = await post("/api/images/known", { sha256: hashes.filter(Boolean) });
    batch.forEach((item, n) => (item.state = data?.[hashes[n]] ? "here" : "waiting"));
  }
  worker = null;
}

// -- sending: each line sends one file after the other

async function run(line) {
  const [name, progress] = line.children;
  for (let item; line.hidden && (item = those("waiting")[0]); line.hidden = true) {
    line.hidden = false;
    item.state = "sending";
    name.textContent = item.path.slice(1);
    const { status, response } = await send(item, progress);
    if (response?.data) {
      item.state = response.data.duplicate ? "here" : "sent";
      isKnown(item.key, true);
    } else {
      const why = status ? `the server answers ${status}` : "the server can't be reached";
      miss(item, status === 415 ? "other" : "failed", response?.error?.message ?? why);
      // The next one would fail as well.
      if (!status || status > 499) await pause();
    }
    progress.value = 0;
    draw();
  }
}

function send({ file, path }, progress) {
  const query = new URLSearchParams({
    name: file.name,
    folder: path.slice(1, -file.name.length - 1),
    mtime: file.lastModified > 0 ? file.lastModified / 1000 : "",
  });
  const request = new XMLHttpRequest();
  const began = performance.now();
  request.upload.onprogress = ({ loaded, total }) => {
    progress.value = loaded / total;
    // It stands still for a minute.
    request.timeout = performance.now() - began + 60_000;
    draw();
  };
  request.open("POST", `/api/images?${query}`);
  request.responseType = "json";
  request.send(file);
  return new Promise((done) => (request.onloadend = () => done(request)));
}

// -- what is shown

let timer;
const draw = () => (timer ??= setTimeout(paint, 100));

function paint() {
  timer = null;
  check();
  const lines = [...byId("lines").children];
  lines.forEach(run);
  for (const part of byId("sent").children) {
    const { length } = those(...part.dataset.states.split(" "));
    part.lastChild.textContent = length.toLocaleString("en");
    part.hidden = !length;
  }
  const left = those(...OPEN).length;
  byId("progress").max = items.size;
  byId("progress").value = items.size - left + lines.reduce((sum, { lastChild }) => sum + lastChild.value, 0);
  if (!left === !onbeforeunload) return;
  onbeforeunload = left ? () => true : null;
  say(byId("sent").innerText);
}

byId("retry").onclick = () => {
  for (const item of those("failed")) {
    item.row.remove();
    item.state = "waiting";
  }
  byId("stop").focus();
  draw();
};
byId("stop").onclick = () => {
  for (const [key, { state, row }] of items) {
    if (state !== "sending") items.delete(key);
    row?.remove();
  }
  draw();
};
