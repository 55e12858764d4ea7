// The contact sheet: search as you type, more as you scroll, what is new as it comes, and one way through it by keys.

import { listen } from "/static/live.js";
import { fetchPage, onKey } from "/static/page.js";

// So many cells a page grows to by itself; behind them a link leads on, so that no tab grows without end.
const MOST = 8000;
// So many come in with one frame, so that scrolling goes on meanwhile.
const AT_ONCE = 12;
// So many cells a list has before another one begins, a few more where its last row is not full.
const LIST = 96;
const TYPED_MS = 150;
const VISIT_MS = 30 * 60 * 1000;

const view = document.getElementById("view");
const fresh = document.getElementById("new");
const main = () => document.getElementById("main");
const cells = () => view.getElementsByTagName("li");
const idOf = (cell) => Number(cell.firstElementChild.id.slice(1));

// -- lists: a section has some, of whole rows; one that is far away is kept as text, and its height with it

const folded = new Map();
// The lists that cells are folded with, by their ids.
const holders = new Map();
const total = () => cells().length + holders.size;

const nearby = new IntersectionObserver(
  (seen) => {
    // All are measured before any is changed.
    const heights = new Map(seen.map(({ target }) => [target, target.offsetHeight]));
    for (const { target, isIntersecting } of seen) isIntersecting ? unfold(target) : fold(target, heights.get(target));
  },
  { rootMargin: "2500px" },
);

function fold(list, height) {
  if (!list.isConnected || folded.has(list) || !list.firstElementChild || list.contains(current)) return;
  const ids = [...list.children].map(idOf);
  list.style.height = `${height}px`;
  folded.set(list, { html: list.innerHTML, ids });
  for (const id of ids) holders.set(id, list);
  list.replaceChildren();
}

function unfold(list) {
  if (!folded.has(list)) return;
  const { html, ids } = folded.get(list);
  folded.delete(list);
  for (const id of ids) holders.delete(id);
  list.innerHTML = html;
  list.style.height = "";
}

const isHere = (id) => document.getElementById(id) || holders.has(Number(id.slice(1)));

/** Return the cell with the id of a link; its list is unfolded for that. */
function cellOf(id) {
  unfold(holders.get(Number(id.slice(1))));
  return document.getElementById(id)?.parentElement;
}

/** Return how many cells are side by side. */
function columns() {
  const cell = cells()[0];
  if (!cell) return 1;
  const gap = parseFloat(getComputedStyle(cell.parentElement).columnGap) || 0;
  return Math.max(1, Math.round((cell.parentElement.clientWidth + gap) / (cell.offsetWidth + gap)));
}

/** Return the list of a section that more cells go to, and how many have room there. */
function roomIn(section, across) {
  let list = section.querySelector("ol:last-of-type");
  unfold(list);
  const count = list.childElementCount;
  const free = count < LIST ? Math.ceil(LIST / across) * across - count : (across - (count % across)) % across;
  if (free) return [list, free];
  list.after((list = Object.assign(document.createElement("ol"), { className: "cells" })));
  return [list, Math.ceil(LIST / across) * across];
}

/** Have whole rows in all lists again, where another number of cells is side by side. */
function rearrange() {
  const now = columns();
  if (now === across) return;
  across = now;
  for (const section of view.querySelectorAll("section")) {
    const lists = [...section.querySelectorAll("ol")];
    if (lists.length < 2) continue;
    lists.forEach(unfold);
    const all = lists.flatMap((list) => [...list.children]);
    for (const list of lists.slice(1)) list.remove();
    lists[0].replaceChildren();
    while (all.length) {
      const [list, free] = roomIn(section, across);
      list.append(...all.splice(0, free));
    }
  }
  settle();
}
let across = 0;
let resized = 0;
addEventListener("resize", () => {
  cancelAnimationFrame(resized);
  resized = requestAnimationFrame(rearrange);
});

// -- sections

/** Add the sections of another page, whose cells follow those that are here; a few with each frame. */
async function append(page, isWanted) {
  prepare(page);
  for (const section of page.querySelectorAll("#view > section")) {
    const added = [...section.querySelectorAll("li")];
    let last = view.querySelector(":scope > section:last-of-type");
    if (last?.dataset.month !== section.dataset.month) {
      section.querySelector("ol").replaceChildren();
      if (last) last.after(document.adoptNode(section));
      else view.prepend(document.adoptNode(section));
      last = section;
    }
    across ||= columns();
    while (added.length) {
      const [list, free] = roomIn(last, across);
      list.append(...added.splice(0, Math.min(AT_ONCE, free)));
      await new Promise(requestAnimationFrame);
      if (!isWanted()) return;
    }
  }
  const older = page.getElementById("older");
  if (older) view.append(document.adoptNode(older.parentElement));
  settle();
}

/** Put in those cells of the newest page that are not here yet, each where it belongs. */
function merge(page) {
  let place = null;
  view.querySelector(".empty")?.remove();
  prepare(page);
  let added = 0;
  for (const theirs of page.querySelectorAll("#view > section")) {
    let ours = view.querySelector(`:scope > section[data-month="${theirs.dataset.month}"]`);
    if (!ours) {
      ours = document.adoptNode(theirs.cloneNode(true));
      ours.querySelector("ol").replaceChildren();
      if (place) place.after(ours);
      else view.prepend(ours);
    }
    ours.querySelector("h2").replaceWith(document.adoptNode(theirs.querySelector("h2")));
    place = ours;
    const list = ours.querySelector("ol");
    unfold(list);
    let before = null;
    for (const cell of theirs.querySelectorAll("li")) {
      const known = cellOf(cell.firstElementChild.id);
      if (!known) {
        cell.classList.add("arrived");
        added += 1;
        if (before?.parentElement === list) before.after(document.adoptNode(cell));
        else list.prepend(document.adoptNode(cell));
      }
      before = known ?? cell;
    }
  }
  if (added) say(`${added} new`);
  settle();
}

// -- one way through it by keys: one cell is reached by Tab, the others by arrows

let current = null;

/** Make the cells of a page ready to be shown. */
function prepare(page) {
  for (const link of page.querySelectorAll(".cells a")) {
    link.tabIndex = -1;
    link.parentElement.classList.toggle("fresh", visit.since > 0 && Number(link.id.slice(1)) > visit.since);
  }
}

/** See to it that there is a cell for Tab, and that what is said of all of them is true. */
function settle() {
  if (!current?.isConnected) current = cells()[0] ?? null;
  if (current) current.firstElementChild.tabIndex = 0;
  const isNew = (id) => visit.since > 0 && id > visit.since;
  const count = [...holders.keys()].filter(isNew).length + view.getElementsByClassName("fresh").length;
  const more = count === total() && document.getElementById("older") ? "+" : "";
  document.getElementById("visit").textContent = count ? `${count}${more} new since your last visit` : "";
  if (cells()[0]) visit.newest = Math.max(visit.newest, idOf(cells()[0]));
  for (const list of view.getElementsByClassName("cells")) nearby.observe(list);
}

function select(cell) {
  if (!cell) return;
  if (current) current.firstElementChild.tabIndex = -1;
  current = cell;
  const link = cell.firstElementChild;
  link.tabIndex = 0;
  link.focus({ preventScroll: true });
  cell.scrollIntoView({ block: "nearest" });
}

/** Return the cell one line up or down that is nearest to the present one. */
function beside(way) {
  const all = cells();
  const from = current.getBoundingClientRect();
  let best = null;
  let line = null;
  for (let n = [...all].indexOf(current) + way; all[n]; n += way) {
    const box = all[n].getBoundingClientRect();
    if (Math.abs(box.top - from.top) < 2) continue;
    if (line !== null && Math.abs(box.top - line) > 2) break;
    line = box.top;
    if (!best || Math.abs(box.left - from.left) < Math.abs(best.left - from.left)) best = { cell: all[n], left: box.left };
  }
  return best?.cell;
}

function step(way, isLine) {
  return () => {
    if (!document.activeElement.closest(".cells")) return false;
    const all = [...cells()];
    select(isLine ? beside(way) : all[all.indexOf(current) + way]);
    if (all.indexOf(current) > all.length - 40) grow();
    return true;
  };
}
onKey("ArrowLeft", step(-1, false));
onKey("ArrowRight", step(1, false));
onKey("ArrowUp", step(-1, true));
onKey("ArrowDown", step(1, true));
view.addEventListener("focusin", ({ target }) => {
  const cell = target.closest(".cells li");
  if (!cell || cell === current) return;
  if (current) current.firstElementChild.tabIndex = -1;
  current = cell;
  target.tabIndex = 0;
});

// -- more as you scroll

let growing = false;

async function grow() {
  const older = document.getElementById("older");
  if (growing || !older || total() >= MOST) return;
  growing = true;
  const page = await fetchPage(older.href).catch(() => null);
  // Another view may have come meanwhile.
  const first = view.firstElementChild;
  if (page && older.isConnected) {
    // Before the cells come, or it would be moved by them.
    older.parentElement.remove();
    await append(page, () => first.isConnected);
  }
  growing = false;
  watch();
}

const nearEnd = new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && grow(), {
  rootMargin: "1600px",
});

function watch() {
  nearEnd.disconnect();
  const older = document.getElementById("older");
  if (older && total() < MOST) nearEnd.observe(older);
}

// -- back to the same cell: the address of this page becomes that of the part where the cell is

view.addEventListener("click", (event) => {
  const cell = event.target.closest(".cells li");
  if (!cell || event.ctrlKey || event.metaKey || event.shiftKey) return;
  const here = new URL(location.href);
  here.hash = "";
  for (const key of ["before", "after"]) here.searchParams.delete(key);
  here.searchParams.set("at", idOf(cell));
  // Not where the page was scrolled to: it was a longer one.
  history.scrollRestoration = "manual";
  history.replaceState({ top: cell.getBoundingClientRect().top }, "", here);
});

function comeBack() {
  const at = new URLSearchParams(location.search).get("at");
  const cell = document.getElementById(`i${at}`)?.parentElement;
  if (!cell) return;
  select(cell);
  const top = history.state?.top ?? innerHeight / 3;
  scrollBy({ top: cell.getBoundingClientRect().top - top, behavior: "instant" });
}

// -- search as you type, and filters

const search = document.getElementById("search");
let asked = null;
let address = location.search;

/** Tell those who hear the page. */
const say = (text) => (document.getElementById("said").textContent = text);

/** Show another view, and give the page its address. */
async function show(url, isNew) {
  asked?.abort();
  asked = new AbortController();
  const page = await fetchPage(url, { signal: asked.signal }).catch(() => location.assign(url));
  if (!page) return;
  history[isNew ? "pushState" : "replaceState"](null, "", url);
  address = location.search;
  fresh.href = url;
  document.title = page.title;
  for (const part of [".tools .order", ".tools .chips"]) {
    document.querySelector(part).replaceWith(document.adoptNode(page.querySelector(part)));
  }
  document.getElementById("index").replaceChildren(...document.adoptNode(page.getElementById("index")).childNodes);
  main().dataset.sort = page.getElementById("main").dataset.sort;
  main().toggleAttribute("data-deep", page.getElementById("main").hasAttribute("data-deep"));
  nearby.disconnect();
  folded.clear();
  holders.clear();
  view.replaceChildren(...document.adoptNode(page.getElementById("view")).childNodes);
  waiting = 0;
  fresh.hidden = true;
  prepare(view);
  settle();
  watch();
  const found = cells().length;
  const more = document.getElementById("older") ? ", and more below" : "";
  say(`${found} ${found === 1 ? "photo" : "photos"}${more}`);
}

const addressOf = (form) => {
  const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));
  return query.size ? `/?${query}` : "/";
};
let timer = 0;
let typing = false;
search.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(() => {
    show(addressOf(search), !typing);
    typing = true;
  }, TYPED_MS);
});
search.addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(timer);
  show(addressOf(search), !typing);
});
search.addEventListener("focusout", () => (typing = false));
document.getElementById("filter").addEventListener("change", ({ currentTarget }) => {
  // What was typed since the page was made.
  const query = new URLSearchParams(addressOf(currentTarget).slice(2));
  query.delete("q");
  if (search.q.value) query.set("q", search.q.value);
  location.assign(`/?${query}`);
});
// Not for another part of the same view: the link that skips to the photos.
addEventListener("popstate", () => location.search !== address && location.reload());

// -- what is new as it comes

let waiting = 0;
let fetching = false;
let again = false;

const isFiltered = () =>
  [...new URLSearchParams(location.search).keys()].some((key) => !["sort", "at", "before", "after"].includes(key));

/** Whether what comes may be put in without moving what is looked at. */
const isAtTop = () => scrollY < 40 && !main().hasAttribute("data-deep");

async function arrive() {
  if (fetching) {
    again = true;
    return;
  }
  fetching = true;
  const here = new URL(location.href);
  for (const key of ["at", "before", "after"]) here.searchParams.delete(key);
  here.hash = "";
  const page = await fetchPage(here).catch(() => null);
  if (page && isAtTop()) {
    const known = [...page.querySelectorAll(".cells a")].some((one) => isHere(one.id));
    // Too many at once, or where they would break the rows of a section's lists: from the start again.
    if (total() && (!known || view.querySelector(".cells + .cells, .cells > :nth-child(400)"))) await show(here);
    else merge(page);
    waiting = 0;
    fresh.hidden = true;
  } else if (page && isFiltered() && !main().hasAttribute("data-deep")) {
    tell([...page.querySelectorAll(".cells a")].filter((one) => !isHere(one.id)).length);
  }
  fetching = false;
  if (again) {
    again = false;
    arrive();
  }
}

listen(({ kind, data }) => {
  if (kind !== "image" || data.event !== "done" || data.status !== "done") return;
  // Whether it is of this view, only the server knows.
  if (isAtTop() || isFiltered()) arrive();
  else tell(waiting + 1);
});

function tell(count) {
  waiting = count;
  fresh.textContent = `${count.toLocaleString("en")} new ↑`;
  fresh.hidden = !count;
}

fresh.addEventListener("click", (event) => {
  if (main().hasAttribute("data-deep")) return;
  event.preventDefault();
  scrollTo({ top: 0, behavior: "instant" });
  arrive();
});

// -- new since the last visit: a visit ends half an hour after the page was last looked at

const visit = { since: 0, newest: 0, at: 0 };
try {
  Object.assign(visit, JSON.parse(localStorage.getItem("visit")));
} catch {
  // Nothing is remembered where that is refused.
}
if (Date.now() - visit.at > VISIT_MS) visit.since = visit.newest;

addEventListener("pagehide", () => {
  try {
    localStorage.setItem("visit", JSON.stringify({ ...visit, at: Date.now() }));
  } catch {
    // As above.
  }
});

prepare(view);
settle();
watch();
comeBack();
