// A shared worker: one stream of events for all tabs of a browser, which opens six connections to a host and no more.

const ports = new Set();
let source = null;
let stats = null;

function tell(message) {
  for (const port of ports) port.postMessage(message);
}

function open() {
  if (source && source.readyState !== EventSource.CLOSED) return;
  // After an interruption the browser asks by Last-Event-ID for what it has missed.
  source = new EventSource("/api/events");
  source.addEventListener("stats", (event) => tell((stats = { kind: "stats", data: JSON.parse(event.data) })));
  source.addEventListener("image", (event) => tell({ kind: "image", data: JSON.parse(event.data) }));
  source.addEventListener("error", () => {
    // Refused for good, as after the end of a session: the pages look for themselves.
    if (source.readyState === EventSource.CLOSED) tell({ kind: "closed" });
  });
}

self.addEventListener("connect", ({ ports: [port] }) => {
  port.addEventListener("message", ({ data }) => {
    if (data === "bye") {
      ports.delete(port);
      if (!ports.size && source) source = source.close() ?? null;
      return;
    }
    ports.add(port);
    open();
    if (stats) port.postMessage(stats);
  });
  port.start();
});
