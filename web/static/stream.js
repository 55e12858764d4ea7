// The stream of events. As a shared worker it is one for all tabs of a browser, which opens six connections to a host.

const listeners = new Set();

/** Call a function with each thing that happens to an image, and with the counts. */
export const listen = (listener) => listeners.add(listener);

const tell = (message) => listeners.forEach((listener) => listener(message));

function open() {
  const source = new EventSource("/api/events");
  for (const kind of ["stats", "image"]) {
    source.addEventListener(kind, (event) => tell({ kind, data: JSON.parse(event.data) }));
  }
  // Refused for good, as after the end of a session.
  source.onerror = () => source.readyState === EventSource.CLOSED && tell({ kind: "closed" });
  return source;
}

let source, stats;
if (!self.document) {
  listen((message) => message.kind === "stats" && (stats = message));
  self.onconnect = ({ ports: [port] }) => {
    const send = (message) => port.postMessage(message);
    port.onmessage = ({ data: isHere }) => {
      if (isHere) {
        listen(send);
        if (!(source?.readyState < EventSource.CLOSED)) source = open();
        if (stats) send(stats);
      } else if (listeners.delete(send) && listeners.size === 1) source = source.close();
    };
  };
} else if (self.SharedWorker) {
  const { port } = new SharedWorker("/static/stream.js", { name: "darkroom", type: "module" });
  port.onmessage = ({ data }) => tell(data);
  port.postMessage(true);
  onpagehide = () => port.postMessage(false);
  onpageshow = ({ persisted }) => persisted && port.postMessage(true);
} else {
  // On some phones there are none: only the tab that is looked at has a stream.
  document.onvisibilitychange = () => {
    source?.close();
    source = document.hidden ? null : open();
  };
  document.onvisibilitychange();
}
