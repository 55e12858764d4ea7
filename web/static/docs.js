// Makes the page from the OpenAPI document: each call with its parameters, a form to try it, and its answers.

const SHOWN = 20_000;

/** Make an element: attributes, then children (strings become text, never markup). */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value !== undefined) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const resolve = (api, schema) =>
  schema?.$ref ? schema.$ref.slice(2).split("/").reduce((node, key) => node[key], api) : schema;

/** Return text as nodes; what stands between backticks is code. */
const worded = (text) => text.split("`").map((part, n) => (n % 2 ? make("code", {}, part) : part));

/** Return the shape of a JSON value as a reader sees it: its keys, and of what kind each is. */
function shape(api, given, indent = "") {
  const schema = resolve(api, given) ?? {};
  const kinds = schema.anyOf ?? schema.oneOf;
  if (kinds) return kinds.map((one) => shape(api, one, indent)).join(" | ");
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" | ");
  if (schema.items) return `[${shape(api, schema.items, indent)}, …]`;
  const keys = Object.entries(schema.properties ?? {});
  if (keys.length) {
    const deeper = `${indent}  `;
    return `{\n${keys.map(([key, one]) => `${deeper}"${key}": ${shape(api, one, deeper)}`).join(",\n")}\n${indent}}`;
  }
  if (schema.additionalProperties) return `{"…": ${shape(api, schema.additionalProperties, indent)}}`;
  return schema.type === "object" ? "{…}" : (schema.type ?? "any");
}

function field(label, input, hint) {
  input.id = `f${(field.count = (field.count ?? 0) + 1)}`;
  return make("div", { class: "field" }, make("label", { for: input.id }, label), input, hint ? make("small", {}, ...worded(hint)) : null);
}

function inputFor(schema, required) {
  const choices = schema.enum ?? (schema.type === "boolean" ? ["true", "false"] : null);
  if (choices) {
    const select = make("select", {}, ...(required ? [] : [make("option", { value: "" }, "any")]));
    select.append(...choices.map((choice) => make("option", { value: choice }, choice)));
    return select;
  }
  const type = schema.type === "integer" ? "number" : "text";
  const placeholder = schema.default ?? schema.examples?.[0];
  return make("input", { type, min: schema.minimum, max: schema.maximum, placeholder, required });
}

function bodyField(api, operation) {
  const content = operation.requestBody?.content;
  if (!content) return null;
  const type = Object.keys(content)[0];
  if (type === "application/json") {
    const example = resolve(api, content[type].schema).examples?.[0] ?? {};
    const area = make("textarea", {});
    area.value = JSON.stringify(example, null, 2);
    return { row: field("body (JSON)", area), read: () => ({ body: area.value, headers: { "Content-Type": type } }) };
  }
  if (type === "application/x-www-form-urlencoded") {
    const [name] = Object.keys(content[type].schema.properties);
    const input = make("input", { type: "password" });
    return { row: field(name, input), read: () => ({ body: new URLSearchParams({ [name]: input.value }) }) };
  }
  const several = type === "multipart/form-data";
  const input = make("input", { type: "file", multiple: several, required: true });
  const read = () => {
    if (!several) return { body: input.files[0] };
    const form = new FormData();
    for (const file of input.files) form.append("file", file);
    return { body: form };
  };
  return { row: field(several ? "file (one or more)" : "file", input), read };
}

async function show(answer, response) {
  const type = response.headers.get("content-type") ?? "";
  const head = make("p", {}, make("strong", { class: response.ok ? "" : "bad" }, `${response.status} ${response.statusText}`), ` ${type}`);
  answer.replaceChildren(head);
  if (type.startsWith("text/event-stream")) return follow(answer, response);
  if (type.startsWith("image/")) {
    const image = make("img", { alt: "the answer", src: URL.createObjectURL(await response.blob()) });
    answer.append(image);
    return undefined;
  }
  if (type === "application/zip") {
    const href = URL.createObjectURL(await response.blob());
    answer.append(make("a", { href, download: "darkroom.zip" }, "Save the archive"));
    return undefined;
  }
  const text = await response.text();
  let shown = text;
  if (type.startsWith("application/json")) shown = JSON.stringify(JSON.parse(text), null, 2);
  answer.append(make("pre", { tabindex: "0" }, shown.slice(0, SHOWN) + (shown.length > SHOWN ? "\n…" : "")));
  return undefined;
}

async function follow(answer, response) {
  const lines = make("pre", { tabindex: "0", "aria-live": "polite" });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const stop = make("button", { type: "button" }, "Stop");
  stop.addEventListener("click", () => reader.cancel());
  answer.append(stop, lines);
  for (let next = await reader.read(); !next.done; next = await reader.read()) {
    lines.textContent = (lines.textContent + next.value).slice(-SHOWN);
    lines.scrollTop = lines.scrollHeight;
  }
  stop.remove();
}

function call(api, path, method, operation) {
  const inputs = (operation.parameters ?? []).map((parameter) => {
    const input = inputFor(parameter.schema, parameter.required);
    return { parameter, input, row: field(parameter.name, input, parameter.description) };
  });
  const body = bodyField(api, operation);
  const answer = make("div", { class: "answer", role: "status" });
  const form = make("form", {}, ...inputs.map(({ row }) => row), body?.row ?? null, make("button", {}, "Send"));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    let url = path;
    const query = new URLSearchParams();
    const headers = {};
    for (const { parameter, input } of inputs) {
      if (input.value === "") continue;
      if (parameter.in === "path") url = url.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
      if (parameter.in === "query") query.append(parameter.name, input.value);
      if (parameter.in === "header") headers[parameter.name] = input.value;
    }
    const sent = body?.read() ?? {};
    answer.replaceChildren("…");
    try {
      const response = await fetch(url + (query.size ? `?${query}` : ""), {
        method: method.toUpperCase(),
        body: sent.body,
        headers: { ...headers, ...sent.headers },
      });
      await show(answer, response);
    } catch (error) {
      answer.replaceChildren(make("p", { class: "bad" }, `No answer: ${error.message}`));
    }
  });
  const answers = Object.entries(operation.responses).map(([status, response]) =>
    make("tr", {}, make("td", {}, make("code", {}, status)), make("td", {}, ...worded(response.description))),
  );
  // Refusals all have the same one.
  const good = Object.entries(operation.responses).find(([status]) => status < "300")?.[1];
  const schema = good?.content?.["application/json"]?.schema;
  const shown = schema ? [make("h3", {}, "Shape"), make("pre", { tabindex: "0" }, shape(api, schema))] : [];
  return make(
    "details",
    { class: "call" },
    make(
      "summary",
      {},
      make("span", { class: `method ${method.toUpperCase()}` }, method.toUpperCase()),
      make("span", { class: "path" }, path),
      make("span", { class: "says" }, ...worded(operation.summary)),
    ),
    make("div", { class: "inside" }, form, answer, make("h3", {}, "Answers"), make("table", {}, ...answers), ...shown),
  );
}

const about = document.getElementById("about");
try {
  const response = await fetch("/openapi.json");
  const api = await response.json();
  about.textContent = `${api.info.description} Version ${api.info.version}.`;
  for (const [path, operations] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(operations)) {
      document.getElementById("calls").append(call(api, path, method, operation));
    }
  }
} catch (error) {
  about.textContent = `The document can't be read: ${error.message}`;
  about.className = "bad";
}
