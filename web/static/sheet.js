// The contact sheet: search as you type, more as you scroll, what is new as it comes, and one way through it by keys.

import { byId, fetchPage, listen, onKey, say, take } from "/static/page.js";

// So many cells a page grows to by itself; behind them a link leads on, so that no tab grows without end.
const MOST = 8000;
// Cells farther away, in pixels, are kept as text.
const NEAR = 2500;

const main = byId("main");
const fresh = byId("new");
const search = byId("search");

// -- cells: all that have come are known, those that are near are in the document

let sections = [];
let across;
// The cell that Tab leads to.
let current;

const all = () => sections.flatMap(({ cells }) => cells);

const read = (page) =>
  [...page.querySelectorAll("[data-month]")].map((element) => ({
    element,
    month: element.dataset.month,
    list: element.lastElementChild,
    cells: [...element.querySelectorAll("li")].map((node) => ({
      id: Number(node.firstElementChild.id.slice(1)),
      html: node.outerHTML,
      node: page === document ? node : null,
    })),
  }));

// Have the cells that are near in the document, and room for the others.
function draw() {
  if (!sections[0]) return;
  const style = getComputedStyle(sections[0].list);
  const gap = parseFloat(style.rowGap);
  const tracks = style.gridTemplateColumns.split(" ");
  across = tracks.length;
  // A browser lays out in 64ths of a pixel, and writes fewer digits.
  const pitch = Math.round(parseFloat(tracks[0]) * 64) / 64 + gap;
  // All are measured before any is changed.
  const tops = sections.map(({ list }) => list.getBoundingClientRect().top);
  sections.forEach(({ list, cells }, n) => {
    const rows = Math.ceil(cells.length / across);
    const row = (y) => Math.min(Math.max(Math.floor((y - tops[n]) / pitch), 0), rows);
    const [first, last] = [row(-NEAR), row(innerHeight + NEAR)];
    const height = rows * pitch - gap;
    list.style.height = `${height}px`;
    list.style.paddingTop = `${Math.min(first * pitch, height)}px`;
    let after = null;
    for (let at = cells.length; at--; ) {
      const cell = cells[at];
      if (at >= first * across && at < last * across) {
        cell.node ??= document.createRange().createContextualFragment(cell.html).firstChild;
        cell.node.firstChild.tabIndex = cell === current ? 0 : -1;
        if (cell.node.parentNode !== list || cell.node.nextElementSibling !== after) list.insertBefore(cell.node, after);
        after = cell.node;
      } else {
        cell.node?.remove();
        cell.node = null;
      }
    }
  });
  const near = all().filter(({ node }) => node);
  if (!near.includes(current)) {
    current = near[near.length >> 1];
    current.node.firstChild.tabIndex = 0;
  }
  if (byId("older")?.getBoundingClientRect().top < innerHeight + NEAR) grow();
}

let frame;
onscroll = onresize = () => {
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(draw);
};

// -- more as you scroll

let isGrowing;

async function grow() {
  const older = byId("older");
  if (isGrowing || all().length >= MOST) return;
  isGrowing = true;
  const page = await fetchPage(older.href);
  isGrowing = false;
  // Another view may have come meanwhile.
  if (!page || !older.isConnected) return;
  for (const section of read(page)) {
    const last = sections.at(-1);
    if (last.month === section.month) last.cells.push(...section.cells);
    else {
      section.list.replaceChildren();
      last.element.after(section.element);
      sections.push(section);
    }
  }
  // Another one, or it would be moved.
  older.parentElement.remove();
  byId("view").append(...page.querySelectorAll(".more:has(#older)"));
  draw();
}

// -- one way through it by keys: one cell is reached by Tab, the others by arrows

// Have a key lead so many cells on, or so many lines.
function arrow(key, way, lines) {
  onKey(key, () => {
    if (!document.activeElement.closest(".cells")) return false;
    const rows = sections.flatMap(({ cells }) =>
      cells.flatMap((_, n) => (n % across ? [] : [cells.slice(n, n + across)])),
    );
    const n = rows.findIndex((row) => row.includes(current));
    const row = rows[n + lines] ?? [];
    select(way ? all()[all().indexOf(current) + way] : row[Math.min(rows[n].indexOf(current), row.length - 1)]);
  });
}
arrow("ArrowLeft", -1);
arrow("ArrowRight", 1);
arrow("ArrowUp", 0, -1);
arrow("ArrowDown", 0, 1);

function select(cell = current) {
  current = cell;
  draw();
  cell.node.firstChild.focus({ preventScroll: true });
  cell.node.scrollIntoView({ block: "nearest" });
}
main.addEventListener("focusin", ({ target }) => {
  current = all().find(({ node }) => node?.firstChild === target) ?? current;
  draw();
});

// -- back to the same cell: the address of this page becomes that of the part where the cell is

main.onclick = ({ target, ctrlKey, metaKey, shiftKey }) => {
  const link = target.closest(".cells a");
  if (!link || ctrlKey || metaKey || shiftKey) return;
  const url = new URL(fresh.href);
  url.searchParams.set("at", link.id.slice(1));
  // Not where the page was scrolled to: it was a longer one.
  history.scrollRestoration = "manual";
  history.replaceState({ top: link.getBoundingClientRect().top }, "", url);
};

sections = read(document);
const back = byId(`i${new URLSearchParams(location.search).get("at")}`);
if (back) {
  scrollBy(0, back.getBoundingClientRect().top - (history.state?.top ?? innerHeight / 3));
  back.focus({ preventScroll: true });
}
draw();

// -- search as you type, and filters

let turn = 0;
let timer;
let address = location.search;

// Show a page in place of this one, with the pictures of those cells that both have.
function swap(page) {
  const before = new Map(all().map(({ id, node }) => [id, node]));
  take(page, ["order", "chips", "visit", "index", "view"], () => {
    sections = read(document);
    for (const { id, node } of all()) {
      const picture = before.get(id)?.querySelector("img");
      if (picture) node.querySelector("img").replaceWith(picture);
      node.classList.toggle("arrived", arrived.has(id));
    }
    current = all().find(({ id }) => id === current?.id);
    draw();
  });
  arrived.clear();
  fresh.hidden = true;
}

async function look(isNew) {
  clearTimeout(timer);
  turn += 1;
  const mine = turn;
  const query = new URLSearchParams([...new FormData(search)].filter(([, value]) => value));
  const url = query.size ? `/?${query}` : "/";
  const page = await fetchPage(url);
  if (mine < turn) return;
  if (!page) return location.assign(url);
  // All that is typed is one step.
  history[isNew || !address.includes("q=") ? "pushState" : "replaceState"](null, "", url);
  address = location.search;
  fresh.href = url;
  swap(page);
  say(byId("view").dataset.count);
}
search.onsubmit = (event) => {
  event.preventDefault();
  look();
};
search.oninput = () => {
  clearTimeout(timer);
  timer = setTimeout(look, 150);
};
// The filters are the search's, and stand elsewhere.
main.onchange = ({ target }) => target.form === search && look(true);
// Not for another part of the same view: the link that skips to the photos.
onpopstate = () => location.search !== address && location.reload();

// -- what is new as it comes

// What came since the view was made; whether it is of this view, only the server knows.
const arrived = new Set();
let isFetching, isAgain;

// Where nothing is moved by it that is looked at, it is put in.
const isAtTop = () => scrollY < 40 && !byId("newer");

async function arrive() {
  isAgain = isFetching;
  if (isFetching) return;
  isFetching = true;
  if (!isAtTop()) await new Promise((done) => setTimeout(done, 1000));
  const page = await fetchPage(fresh.href);
  isFetching = false;
  if (page) {
    const count = read(page).flatMap(({ cells }) => cells.filter(({ id }) => arrived.has(id))).length;
    fresh.textContent = `${count} new ↑`;
    fresh.hidden = !count;
    if (isAtTop()) swap(page);
    if (count) say(`${count} new`);
  }
  if (isAgain) arrive();
}

listen(({ kind, data }) => {
  if (kind !== "image") return;
  // Thrown away or deleted, it is in no view but one of its status.
  if (["rejected", "deleted"].includes(data.status) && !location.search.includes("status=")) {
    byId(`i${data.image_id}`)?.parentElement.remove();
    for (const section of sections) section.cells = section.cells.filter(({ id }) => id !== data.image_id);
    draw();
  }
  if (data.event !== "done" || data.status !== "done") return;
  arrived.add(data.image_id);
  arrive();
});

fresh.onclick = async (event) => {
  if (byId("newer")) return;
  event.preventDefault();
  scrollTo(0, 0);
  const page = await fetchPage(fresh.href);
  if (page) swap(page);
};
