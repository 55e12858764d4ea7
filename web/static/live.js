// What happens in the inbox, as it happens: the bar at the top, and whoever else listens.

const listeners = new Set();

/** Call a function with each thing that happens to an image, and with the counts. */
export const listen = (listener) => listeners.add(listener);

function receive(message) {
  if (message.kind === "stats") showBar(message.data);
  if (message.kind === "closed") look();
  for (const listener of listeners) listener(message);
}

/** See whether the session has ended: then any page leads to the sign-in. */
async function look() {
  const answer = await fetch("/api/stats").catch(() => null);
  if (answer?.status === 401) location.reload();
}

function connect() {
  if (self.SharedWorker) {
    const { port } = new SharedWorker("/static/stream.js", { name: "darkroom" });
    port.addEventListener("message", ({ data }) => receive(data));
    port.start();
    port.postMessage("hello");
    addEventListener("pagehide", () => port.postMessage("bye"));
    addEventListener("pageshow", ({ persisted }) => persisted && port.postMessage("hello"));
    return;
  }
  // Where there are none, as on some phones, only the tab that is looked at has a stream.
  let source = null;
  const follow = () => {
    if (document.hidden) source = source?.close() ?? null;
    if (document.hidden || source) return;
    source = new EventSource("/api/events");
    for (const kind of ["stats", "image"]) {
      source.addEventListener(kind, (event) => receive({ kind, data: JSON.parse(event.data) }));
    }
  };
  document.addEventListener("visibilitychange", follow);
  follow();
}

function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.round(minutes / 60)} h`;
}

// As web/sheet.py has it.
function showBar(counts) {
  const n = (number) => number.toLocaleString("en");
  const parts = [`${n(counts.done)} filed`];
  if (counts.queued) parts.push(`${n(counts.queued)} waiting`);
  if (counts.processing) parts.push(`${n(counts.processing)} in hand`);
  if (counts.queued + counts.processing && counts.rate) {
    parts.push(`${counts.rate.toFixed(1)} a second`);
    if (counts.seconds_left !== null) parts.push(`${duration(counts.seconds_left)} left`);
  }
  write("line", parts.join(" · "));
  write("failed-count", counts.failed ? n(counts.failed) : "");
  const paused = document.getElementById("paused");
  write("paused", counts.paused ? `Paused: ${counts.paused}. Once that is mended, filing goes on by itself.` : "");
  if (paused) paused.hidden = !counts.paused;
}

function write(id, text) {
  const element = document.getElementById(id);
  if (element && element.textContent !== text) element.textContent = text;
}

connect();
