// One photo: keys, its neighbours fetched ahead, the original where the thumbnail is too small.

import { byId, onKey } from "/static/page.js";

// Replaced, so that Back leads to the sheet.
const lead = (id) => () => (byId(id) ? location.replace(byId(id).href) : false);
onKey("ArrowLeft", lead("previous"));
onKey("ArrowRight", lead("next"));
onKey("Escape", () => byId("back").click());
onKey("e", () => byId("caption").focus());
for (const stars of "012345") {
  onKey(stars, () => {
    byId("rating").value = stars;
    byId("words").requestSubmit();
  });
}

onload = () => {
  for (const { dataset } of document.querySelectorAll("[data-id]")) {
    new Image().src = `/api/images/${dataset.id}/thumbnails/medium`;
  }
  const picture = byId("picture");
  const { original, bytes } = picture?.dataset ?? {};
  const isSmall = !original || picture.clientWidth * devicePixelRatio < 900;
  // More is not fetched unasked.
  if (isSmall || bytes > 12_000_000 || navigator.connection?.saveData) return;
  const better = new Image();
  better.src = original;
  better.decode().then(() => (picture.src = original)).catch(() => {});
};
