// The stream of events; as a shared worker, one for all tabs: together they have six connections.

const listeners = new Set();

// Call a function with all that happens to images, and with the counts.
export const listen = (listener) => listeners.add(listener);

const tell = (message) => listeners.forEach((listener) => listener(message));

function open() {
  const source = new EventSource("/api/events");
  for (const kind of ["stats", "image"]) {
    source.addEventListener(kind, ({ data }) => tell({ kind, data: JSON.parse(data) }));
  }
  // Refused for good.
  source.onerror = () => source.readyState > 1 && tell({ kind: "closed" });
  return source;
}

let source, stats;
if (!self.document) {
  listen((message) => message.kind === "stats" && (stats = message));
  onconnect = ({ ports: [port] }) => {
    const send = (message) => port.postMessage(message);
    port.onmessage = ({ data: isHere }) => {
      if (isHere) {
        listen(send);
        if (!(source?.readyState < 2)) source = open();
        if (stats) send(stats);
      } else if (listeners.delete(send) && listeners.size === 1) source = source.close();
    };
  };
} else if (self.SharedWorker) {
  const { port } = new SharedWorker("/static/stream.js", { type: "module" });
  port.onmessage = ({ data }) => tell(data);
  port.postMessage(true);
  onpagehide = () => port.postMessage(false);
  onpageshow = ({ persisted }) => persisted && port.postMessage(true);
} else {
  // Some phones have none.
  (document.onvisibilitychange = () => {
    source?.close();
    source = document.hidden ? null : open();
  })();
}
