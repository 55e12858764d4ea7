// What all pages share: the bar, fetching, telling, forms without a reload, keys.

import { listen } from "/static/stream.js";

export { listen };
export const byId = (id) => document.getElementById(id);

export const pause = () => new Promise((done) => setTimeout(done, 1000));

// Tell those who hear the page.
export const say = (text) => (byId("said").textContent = text);

// Return a page as a document; null where it does not come.
export async function fetchPage(url, body) {
  try {
    const answer = await fetch(url, body && { method: "POST", body });
    if (answer.status === 401) location.reload();
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    return page.getElementById("main") && page;
  } catch {
    return null;
  }
}

// Return what the API answers, if it does.
export async function post(path, body) {
  try {
    return await (await fetch(path, { method: "POST", body: JSON.stringify(body) })).json();
  } catch {
    return {};
  }
}

// Show parts of another page, and keep the focus.
export function take(page, parts = ["main", "title"]) {
  const at = document.activeElement;
  for (const part of parts) byId(part).replaceWith(page.getElementById(part));
  if (!at.isConnected) (byId(at.id) ?? byId(parts[0])).focus({ preventScroll: true });
}

document.onsubmit = async (event) => {
  const { target: form, submitter: button } = event;
  if (form.method !== "post" || button?.formTarget) return;
  event.preventDefault();
  if (form.ariaBusy) return;
  form.ariaBusy = true;
  const page = await fetchPage(form.action, new URLSearchParams(new FormData(form, button)));
  form.ariaBusy = null;
  if (page) take(page, form.dataset.parts?.split());
  else if (button) button.textContent = "That didn't work: try again";
};

listen(async ({ kind, data }) => {
  // Where the session has ended, any page leads to the sign-in.
  if (kind === "closed") fetchPage("/failed");
  if (kind !== "stats") return;
  for (const place of document.querySelectorAll("[data-stat]")) {
    place.textContent = (data[place.dataset.stat] || "").toLocaleString("en");
  }
  // A list of failures is as it is now.
  const { failed } = byId("main").dataset;
  const page = failed && Number(failed) !== data.failed && (await fetchPage("/failed"));
  if (page) take(page);
});

const keys = {
  "/": () => byId("q")?.focus(),
  "?": () => byId("help")?.showModal(),
};

// Have a key do something where nothing is typed; false where it does nothing.
export const onKey = (key, act) => (keys[key] = act);

document.onkeydown = (event) => {
  const { key, target, ctrlKey, metaKey, altKey } = event;
  if (key === "Escape" && target.matches("input, textarea")) target.blur();
  else if (ctrlKey || metaKey || altKey || target.matches("input, textarea, select, dialog *")) return;
  else if (keys[key] && keys[key](event) !== false) event.preventDefault();
};
