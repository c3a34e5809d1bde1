// The OpenAPI document of /openapi.json as a page.
import { element } from "/static/drawing.js";

const by = (id) => document.getElementById(id);

function kind(schema = {}) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(kind).join(" or ");
  if (schema.type === "array") return `${kind(schema.items)}[]`;
  return schema.enum ? schema.enum.join(" | ") : schema.type ?? "any";
}

function fields(rows) {
  const table = element("table");
  for (const cells of rows) {
    const row = element("tr");
    cells.forEach((text, column) => row.append(element(column ? "td" : "th", text)));
    table.append(row);
  }
  const wide = element("div", "", { class: "wide" });
  wide.append(table);
  return wide;
}

function operation(path, method, one) {
  const parts = [element("h3", `${method.toUpperCase()} ${path}`), element("p", [one.summary, one.description].filter(Boolean).join(". "))];
  const rows = (one.parameters ?? []).map((given) => [given.name, `${given.in}, ${kind(given.schema)}`, given.description ?? ""]);
  for (const [type, given] of Object.entries(one.requestBody?.content ?? {})) rows.push(["body", type, kind(given.schema)]);
  for (const [status, answer] of Object.entries(one.responses)) {
    const [type, given] = Object.entries(answer.content ?? {})[0] ?? ["", {}];
    rows.push([status, [type, given.schema && kind(given.schema)].filter(Boolean).join(" "), answer.description]);
  }
  return [...parts, fields(rows)];
}

function message(name, schema) {
  const rows = Object.entries(schema.properties ?? {}).map(([key, given]) => [key, kind(given), given.description ?? ""]);
  return [element("h3", name, { id: name }), element("p", schema.description ?? ""), fields(rows)];
}

async function show(token) {
  const answer = await fetch("/openapi.json", { credentials: "omit", headers: token ? { Authorization: `Bearer ${token}` } : {} });
  by("token").hidden = answer.status !== 401;
  if (!answer.ok) {
    by("message").textContent = answer.status === 401 ? "This server requires a token." : `status ${answer.status}`;
    return;
  }
  const api = await answer.json();
  by("message").textContent = "";
  by("operations").replaceChildren(
    element("p", api.info.description),
    element("h2", "Operations"),
    ...Object.entries(api.paths).flatMap(([path, all]) => Object.entries(all).flatMap(([method, one]) => operation(path, method, one))),
    element("h2", "Messages"),
    ...Object.entries(api.components.schemas).flatMap(([name, schema]) => message(name, schema)),
  );
}

by("token").addEventListener("submit", (event) => {
  event.preventDefault();
  const input = event.target.querySelector("input");
  show(input.value.trim());
  input.value = "";
});
show(null);
