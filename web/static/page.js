// What all pages share: fetching a page to take parts of it over, forms without a reload, keys, help.

import { listen } from "/static/live.js";

/** Return a page of this server as a document; null where something newer was asked for meanwhile. */
export async function fetchPage(url, options = {}) {
  try {
    const answer = await fetch(url, options);
    if (answer.status === 401) return location.reload() ?? null;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    page.address = answer.url;
    return page.getElementById("main") ? page : null;
  } catch (error) {
    if (error.name === "AbortError") return null;
    throw error;
  }
}

/** Show another page's main part in place of this one's, and keep the focus where it was. */
function take(page) {
  const focus = document.activeElement?.id || document.activeElement?.getAttribute("aria-label");
  document.getElementById("main").replaceWith(document.adoptNode(page.getElementById("main")));
  document.title = page.title;
  const again = focus && (document.getElementById(focus) ?? document.querySelector(`[aria-label="${CSS.escape(focus)}"]`));
  again?.focus({ preventScroll: true });
}

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (form.method !== "post" || form.getAttribute("action") === "/sign-out") return;
  event.preventDefault();
  const button = event.submitter;
  const body = new URLSearchParams(new FormData(form, button));
  if (button) button.disabled = true;
  const page = await fetchPage(form.action, { method: "POST", body }).catch(() => null);
  if (page) take(page);
  else if (button) {
    button.disabled = false;
    button.textContent = "That didn't work: try again";
  }
});

// A list of failures is as it is now, without a reload.
let failed = null;
listen(async ({ kind, data }) => {
  if (kind !== "stats" || failed === data.failed) return;
  const isFirst = failed === null;
  failed = data.failed;
  if (isFirst || document.getElementById("main").dataset.live !== "failed") return;
  const page = await fetchPage("/failed").catch(() => null);
  if (page) take(page);
});

/** Whether a key is typed into something, or means something to the browser. */
const isTaken = (event) =>
  event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea, select, dialog *");

const keys = {
  "/": () => document.querySelector("input[type=search]")?.focus(),
  "?": () => document.getElementById("help")?.showModal(),
};

/** Have a key do something where it is not typed into a field. */
export const onKey = (key, act) => (keys[key] = act);

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && event.target.matches("input, textarea")) return event.target.blur();
  if (isTaken(event) || !(event.key in keys)) return undefined;
  if (keys[event.key](event) !== false) event.preventDefault();
  return undefined;
});
