import { element, number, plot, table } from "/static/drawing.js";

const by = (id) => document.getElementById(id);
const POLL_MILLISECONDS = 3000;
const orders = { studies: { column: null, sign: 1 }, trials: { column: null, sign: 1 } };
let token = null; // in memory only: lost when the page is closed
let shown = decodeURIComponent(location.hash.slice(1)) || null;

function report(text, bad = false) {
  by("message").textContent = text;
  by("message").className = bad ? "bad" : "";
}

async function ask(path, body) {
  const headers = token === null ? {} : { Authorization: `Bearer ${token}` };
  const post = { method: "POST", body: JSON.stringify(body), headers: { ...headers, "Content-Type": "application/json" } };
  const answer = await fetch(path, { cache: "no-store", credentials: "omit", ...(body === undefined ? { headers } : post) });
  if (answer.ok) return answer;
  by("token").hidden = answer.status !== 401;
  if (answer.status === 401 && token === null) throw new Error("This server requires a token.");
  const problem = await answer.json().catch(() => ({}));
  throw new Error([problem.detail ?? `status ${answer.status}`, problem.hint].filter(Boolean).join(" "));
}

function showStudies(rows) {
  const lines = rows.map((row) => ({
    key: row.study,
    cells: [element("a", row.study, { href: `#${encodeURIComponent(row.study)}` }), row.task, row.state, `${row.ended} of ${row.budget}`, row.best],
  }));
  table(by("studies"), ["study", "task", "state", "trials", "best"], lines, orders.studies, shown);
  if (!rows.length) report("The storage contains no study yet.");
}

function showStudy(study) {
  by("study").hidden = false;
  by("name").textContent = study.study;
  const found = study.winner ? `winner: trial ${study.winner.trial} (${study.winner.rule})` : "no trial has reached the full budget yet";
  const left = study.left ? `, about ${study.left} left` : "";
  by("standing").textContent = `${study.state}, ${study.ended} of ${study.budget} trials ended${left}; ${found}`;
  by("waits").replaceChildren(...study.waits.map((line) => element("li", line)));
  if (document.activeElement !== by("budget")) by("budget").value = study.budget;
  const link = study.mlflow ? element("a", "MLflow", { href: study.mlflow, rel: "noreferrer" }) : element("code", study.mlflow_command);
  by("mlflow").replaceChildren(link);
  const winner = study.winner ? study.winner.trial : null;
  plot(by("curves"), study.curves, study.steps, Object.keys(study.objectives)[0], winner);
  const metrics = study.shown_metrics.filter((name) => study.trials.some((trial) => name in trial.metrics));
  const params = [...new Set(study.trials.flatMap((trial) => Object.keys(trial.params)))];
  const heads = ["trial", "outcome", "step", ...metrics.map((name) => name.replaceAll("_", " ")), ...params.map((key) => key.split(".").pop().replaceAll("_", " ")), "reason"];
  const rows = study.trials.map((trial) => ({
    key: trial.trial,
    cells: [trial.trial, trial.outcome, trial.step, ...metrics.map((name) => trial.metrics[name]), ...params.map((key) => trial.params[key]), trial.reason],
  }));
  table(by("trials"), heads, rows, orders.trials, winner);
}

async function refresh() {
  try {
    const rows = await (await ask("/page/studies")).json();
    by("token").hidden = true;
    if (shown === null && rows.length) shown = rows[0].study;
    showStudies(rows);
    if (rows.some((row) => row.study === shown)) showStudy(await (await ask(`/page/studies/${encodeURIComponent(shown)}`)).json());
    if (by("message").className === "bad") report("");
  } catch (error) {
    report(error.message, true);
  }
}

by("token").addEventListener("submit", (event) => {
  event.preventDefault();
  const input = event.target.querySelector("input");
  token = input.value.trim();
  input.value = "";
  refresh();
});

by("actions").addEventListener("click", async (event) => {
  const action = event.target.dataset.action;
  if (!action) return;
  const body = action === "extend" ? { trials: Number(by("budget").value) } : action === "stop" ? { now: false } : {};
  try {
    const done = await (await ask(`/v1/studies/${encodeURIComponent(shown)}/${action}`, body)).json();
    report(`${done.action}: requested by ${done.who}`);
    await refresh();
  } catch (error) {
    report(error.message, true);
  }
});

by("report").addEventListener("click", async () => {
  try {
    const url = URL.createObjectURL(await (await ask(`/page/studies/${encodeURIComponent(shown)}/report`)).blob());
    const link = element("a", "", { href: url, download: `${shown}.html` });
    link.click();
    URL.revokeObjectURL(url);
    report(`${shown}.html is downloaded`);
  } catch (error) {
    report(error.message, true);
  }
});

window.addEventListener("hashchange", () => {
  shown = decodeURIComponent(location.hash.slice(1));
  orders.trials = { column: null, sign: 1 };
  refresh();
});
setInterval(() => document.hidden || (!by("token").hidden && token === null) || refresh(), POLL_MILLISECONDS);
refresh();
