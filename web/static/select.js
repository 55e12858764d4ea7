// Many photos at once: how they are selected. What is done with them is a form.

import { byId, onKey, post, say } from "/static/page.js";

const main = byId("main");
const bar = byId("selection");
const chosen = new Set();
// How many the view has, where all of it is selected.
let whole = 0;
let anchor, ids, redraw, press, isPressed;

export const isChosen = (id) => whole > 0 || chosen.has(id);
const count = () => whole || chosen.size;

// Begin, with what returns the ids of all cells, and what shows which are selected.
export const watch = (...given) => ([ids, redraw] = given);

// Select a photo or let it go, or select all from another one on.
export function pick(id, from) {
  const list = ids();
  if (whole) list.forEach(chosen.add, chosen);
  whole = 0;
  const [first, last] = [list.indexOf(from), list.indexOf(id)].sort((a, b) => a - b);
  if (first >= 0) list.slice(first, last + 1).forEach(chosen.add, chosen);
  else if (!chosen.delete(id)) chosen.add(id);
  anchor = id;
  show();
}

export function clear() {
  if (!count()) byId("told").textContent = "";
  byId("total").textContent = "";
  chosen.clear();
  whole = 0;
  if (bar.matches(":focus-within")) main.querySelector(".cells [tabindex='0']")?.focus();
  show();
}

async function measure() {
  const { data } = await post("/api/images/bulk", { act: "count", filter: JSON.parse(bar.filter.value) });
  return (byId("total").textContent = data?.selected ?? "");
}

async function all() {
  whole = Number(await measure());
  show();
}

function show() {
  const n = count();
  main.classList.toggle("selecting", n > 0);
  bar.ids.value = [...chosen];
  bar.whole.value = whole || "";
  byId("chosen").textContent = n.toLocaleString("en");
  say(`${n} selected`);
  redraw();
  if (n && !byId("total").textContent) measure();
}

const idOf = (cell) => Number(cell.lastChild.value);

main.addEventListener("click", (event) => {
  const { target, shiftKey, ctrlKey, metaKey, detail } = event;
  const cell = target.closest(".cells li");
  const isBox = target.matches("input");
  // Where some are selected a click selects, too; Enter opens.
  if (!cell || !(isPressed || isBox || shiftKey || (count() && detail && !ctrlKey && !metaKey))) return;
  if (!isBox || isPressed) event.preventDefault();
  cell.firstChild.focus({ preventScroll: true });
  if (!isPressed) pick(idOf(cell), shiftKey && anchor);
});
main.onpointerdown = ({ target, pointerType }) => {
  const cell = target.closest(".cells li");
  isPressed = false;
  if (!cell || pointerType !== "touch") return;
  press = setTimeout(() => {
    isPressed = true;
    pick(idOf(cell));
  }, 400);
};
main.onpointerup = main.onpointercancel = () => clearTimeout(press);
main.oncontextmenu = () => !isPressed;

onKey(" ", () => {
  const cell = document.activeElement.closest(".cells li");
  return cell ? pick(idOf(cell)) : false;
});
onKey("a", all);
onKey("Escape", clear);
byId("all").onclick = all;
byId("none").onclick = clear;
