// One photo: its neighbours by the arrow keys, fetched ahead; the original in place of the thumbnail where that is small.

import { byId, onKey } from "/static/page.js";

// More is not fetched unasked.
const LARGEST = 12_000_000;

function leadTo(key, id) {
  // Replaced, so that Back leads to the sheet from wherever one has come to.
  onKey(key, () => (byId(id) ? location.replace(byId(id).href) : false));
}
leadTo("ArrowLeft", "previous");
leadTo("ArrowRight", "next");
onKey("Escape", () => byId("back")?.click());
onKey("e", () => byId("caption")?.focus());
for (const stars of "012345") {
  onKey(stars, () => {
    byId("rating").value = stars;
    byId("words").requestSubmit();
  });
}

onload = async () => {
  for (const { dataset } of document.querySelectorAll("[data-id]")) {
    new Image().src = `/api/images/${dataset.id}/thumbnails/medium`;
  }
  const picture = byId("picture");
  const { original, bytes } = picture?.dataset ?? {};
  const wide = picture && Math.min(picture.clientWidth, picture.clientHeight * (picture.width / picture.height || 1));
  if (!original || bytes > LARGEST || navigator.connection?.saveData || wide * devicePixelRatio < 900) return;
  const better = new Image();
  better.src = original;
  await better.decode().then(() => (picture.src = original)).catch(() => {});
};
