// The contact sheet: more as you scroll, search as you type, what is new, keys.

import { byId, fetchPage, listen, onKey, pause, say, take } from "/static/page.js";
import { clear, isChosen, pick, watch } from "/static/select.js";

// So many cells come by themselves; then a link leads on.
const MOST = 8000;
// Cells farther away, in pixels, are kept as text.
const NEAR = 2500;

const main = byId("main");
const viewed = () => byId("view").dataset;
const search = byId("search");

// -- cells: all have room, and those that are near are in the document

const read = (page) =>
  [...page.querySelectorAll(".cells li")].map((node) => ({
    id: Number(node.lastChild.value),
    html: node.outerHTML,
    list: node.parentElement,
    node: page === document ? node : null,
  }));

let cells = read(document);
// What came since; whether it is of this view, only the server knows.
const arrived = new Set();
let across;
// The cell that Tab leads to.
let current;

const byList = () => [...Map.groupBy(cells, ({ list }) => list)];

function draw() {
  if (!cells[0]) return;
  const { rowGap, gridTemplateColumns: tracks } = getComputedStyle(cells[0].list);
  const gap = parseFloat(rowGap);
  across = tracks.split(" ").length;
  // Layout is in 64ths of a pixel.
  const pitch = Math.round(parseFloat(tracks) * 64) / 64 + gap;
  // Measured before anything is changed.
  for (const [list, within, top] of byList().map((one) => [...one, one[0].getBoundingClientRect().top])) {
    const rows = Math.ceil(within.length / across);
    const row = (y) => Math.min(Math.max(Math.floor((y - top) / pitch), 0), rows);
    const height = rows * pitch - gap;
    list.style.height = `${height}px`;
    list.style.paddingTop = `${Math.min(row(-NEAR) * pitch, height)}px`;
    const near = within.slice(row(-NEAR) * across, row(innerHeight + NEAR) * across);
    for (const cell of new Set(within).difference(new Set(near))) {
      cell.node?.remove();
      cell.node = null;
    }
    let after = null;
    for (const cell of near.reverse()) {
      cell.node ??= document.createRange().createContextualFragment(cell.html).firstChild;
      cell.node.firstChild.tabIndex = cell === current ? 0 : -1;
      cell.node.lastChild.checked = isChosen(cell.id);
      if (cell.node.parentNode !== list || cell.node.nextElementSibling !== after) list.insertBefore(cell.node, after);
      after = cell.node;
    }
  }
  const near = cells.filter(({ node }) => node);
  if (!near.includes(current)) {
    current = near.find(({ node }) => node.getBoundingClientRect().top > 0) ?? near[0];
    current.node.firstChild.tabIndex = 0;
  }
  if (byId("older")?.getBoundingClientRect().top < innerHeight + NEAR) grow();
  if (arrived.size && isAtTop()) arrive();
}

// Each comes once a frame.
onscroll = onresize = draw;

// -- more as you scroll

let isGrowing;

async function grow() {
  const older = byId("older");
  if (isGrowing || cells.length >= MOST) return;
  isGrowing = true;
  const page = await fetchPage(older.href);
  isGrowing = false;
  // Another view may have come.
  if (!page || !older.isConnected) return;
  const more = read(page);
  const [first, ...sections] = page.querySelectorAll("[data-month]");
  const last = cells.at(-1).list;
  if (first.dataset.month !== last.parentElement.dataset.month) sections.unshift(first);
  else for (const cell of more) if (cell.list.parentElement === first) cell.list = last;
  for (const section of sections) section.lastElementChild.replaceChildren();
  // A new link, which is not moved.
  older.parentElement.remove();
  byId("view").append(...sections, ...page.querySelectorAll(".more:has(#older)"));
  cells.push(...more);
  draw();
}

// -- keys: Tab leads to one cell, arrows to the others

// Have a key lead on by cells, or by lines.
function arrow(key, way, lines) {
  onKey(key, ({ shiftKey }) => {
    if (!document.activeElement.closest(".cells")) return false;
    const rows = byList().flatMap(([, within]) =>
      within.flatMap((_, n) => (n % across ? [] : [within.slice(n, n + across)])),
    );
    const n = rows.findIndex((row) => row.includes(current));
    const row = rows[n + lines] ?? [];
    const from = current;
    current = (way ? cells[cells.indexOf(from) + way] : row[Math.min(rows[n].indexOf(from), row.length - 1)]) ?? from;
    draw();
    current.node.firstChild.focus({ preventScroll: true });
    current.node.scrollIntoView({ block: "nearest" });
    if (shiftKey) pick(current.id, from.id);
  });
}
arrow("ArrowLeft", -1);
arrow("ArrowRight", 1);
arrow("ArrowUp", 0, -1);
arrow("ArrowDown", 0, 1);
main.addEventListener("focusin", ({ target }) => {
  const cell = cells.find(({ node }) => node?.firstChild === target);
  if (!cell) return;
  current = cell;
  draw();
});

// -- back to the same cell: its part of the view becomes the address

main.onclick = ({ target, ctrlKey, metaKey, defaultPrevented }) => {
  const link = target.closest(".cells a");
  if (!link || ctrlKey || metaKey || defaultPrevented) return;
  const url = new URL(viewed().url, location);
  url.searchParams.set("at", link.id.slice(1));
  // Not to where a longer page was scrolled.
  history.scrollRestoration = "manual";
  history.replaceState({ top: link.getBoundingClientRect().top }, "", url);
};

const back = byId(`i${new URLSearchParams(location.search).get("at")}`);
if (back) {
  scrollBy(0, back.getBoundingClientRect().top - (history.state?.top ?? innerHeight / 3));
  back.focus({ preventScroll: true });
}
watch(() => cells.map(({ id }) => id), draw);
draw();

// -- search as you type, and filters

let turn = 0;
let timer;
let address = location.search;

// Show another page, with the pictures that are here.
function swap(page) {
  const before = new Map(cells.map(({ id, node }) => [id, node]));
  take(page, ["order", "title", "chips", "new", "visit", "index", "view"]);
  cells = read(document);
  for (const { id, node } of cells) {
    const picture = before.get(id)?.querySelector("img");
    if (picture) node.querySelector("img").replaceWith(picture);
    node.classList.toggle("arrived", arrived.has(id));
  }
  arrived.clear();
  current = cells.find(({ id }) => id === current?.id);
  draw();
}

async function look(isNew) {
  clearTimeout(timer);
  const mine = (turn += 1);
  const query = new URLSearchParams([...new FormData(search)].filter(([, value]) => value));
  const url = query.size ? `/?${query}` : "/";
  const page = await fetchPage(url);
  if (mine < turn) return;
  if (!page) return location.assign(url);
  // All that is typed is one step.
  history[isNew || !address.includes("q=") ? "pushState" : "replaceState"](null, "", url);
  address = location.search;
  swap(page);
  clear();
  say(viewed().count);
}
search.onsubmit = () => {
  look();
  return false;
};
search.oninput = () => {
  clearTimeout(timer);
  timer = setTimeout(look, 150);
};
// The filters are the search's, and stand elsewhere.
main.onchange = ({ target }) => target.form === search && look(true);
// Not for the link that skips to the photos.
onpopstate = () => location.search !== address && location.reload();

// -- what is new as it comes

let isFetching, isAgain;

// Put in it moves nothing that is looked at.
const isAtTop = () => scrollY < 40 && !byId("newer");

async function arrive() {
  if ((isAgain = isFetching)) return;
  isFetching = true;
  if (!isAtTop()) await pause();
  const page = await fetchPage(viewed().url);
  isFetching = false;
  if (page) {
    const { length } = read(page).filter(({ id }) => arrived.has(id));
    if (length) say((byId("new").textContent = `${length} new ↑`));
    byId("new").hidden = !length;
    if (isAtTop()) swap(page);
  }
  if (isAgain) arrive();
}

listen(({ kind, data }) => {
  if (kind !== "image") return;
  // It is in no view but one of its status.
  if (["rejected", "deleted"].includes(data.status) && !location.search.includes("status=")) {
    byId(`i${data.image_id}`)?.parentElement.remove();
    cells = cells.filter(({ id }) => id !== data.image_id);
    draw();
    if (isAtTop()) arrive();
  }
  if (data.event !== "done" || data.status !== "done") return;
  arrived.add(data.image_id);
  arrive();
});
