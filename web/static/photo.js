// One photo: its neighbours by the arrow keys, fetched ahead; the original in place of the thumbnail where that is small.

import { onKey } from "/static/page.js";

// More is not fetched unasked.
const LARGEST = 12_000_000;

const go = (id) => () => {
  const link = document.getElementById(id);
  // Replaced, so that Back leads to the sheet from wherever one has come to.
  if (link) location.replace(link.href);
  return Boolean(link);
};
onKey("ArrowLeft", go("previous"));
onKey("ArrowRight", go("next"));
onKey("Escape", () => document.getElementById("back")?.click());
onKey("e", () => document.getElementById("caption")?.focus());

addEventListener("load", async () => {
  for (const link of document.querySelectorAll("[data-id]")) {
    new Image().src = `/api/images/${link.dataset.id}/thumbnails/medium`;
  }
  const picture = document.getElementById("picture");
  const { original, bytes } = picture?.dataset ?? {};
  const wide = picture && Math.min(picture.clientWidth, picture.clientHeight * (picture.width / picture.height || 1));
  if (!original || Number(bytes) > LARGEST || navigator.connection?.saveData || wide * devicePixelRatio < 900) return;
  const better = new Image();
  better.src = original;
  await better.decode().then(() => (picture.src = original)).catch(() => {});
});
