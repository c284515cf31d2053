// Asks the admin API every two seconds and shows what it says. Rates are differences of counts.
"use strict";

const EVERY_MS = 2000;
const HISTORY = 90;
const SHOWN = 20;
const lines = { rate: [], up: [], down: [], rejected: [] };
let before = null;

const at = (id) => document.getElementById(id);

async function ask(what) {
  const answer = await fetch(`/api/v1/${what}`, { cache: "no-store" });
  if (!answer.ok) throw new Error(`${what}: ${answer.status}`);
  return answer.json();
}

async function look() {
  try {
    const names = ["status", "backends", "routes", "problems", "config", "kernel"];
    const [status, backends, routes, problems, config, kernel] = await Promise.all(names.map(ask));
    const now = { at: performance.now(), status, backends, routes };
    show(now, problems, config, kernel);
    before = now;
    at("state").textContent = "live";
    at("state").className = "good";
  } catch (error) {
    at("state").textContent = `no answer (${error.message}); what is shown is old`;
    at("state").className = "bad";
    before = null;
  }
  setTimeout(look, EVERY_MS);
}

function show(now, problems, config, kernel) {
  const { status } = now;
  const seconds = before ? (now.at - before.at) / 1000 : 0;
  // A count that has become less is that of another process.
  const rate = (count, old) => (seconds > 0 && old !== undefined && count >= old ? (count - old) / seconds : null);
  at("about").textContent =
    `${status.version}, process ${status.pid}, for ${time(status.uptime_seconds)}; ` +
    `generation ${config.generation} from ${config.source}` +
    (config.refused ? "; THE NEWEST ONE WAS REFUSED" : "") +
    (config.unread ? `; AN OLD ONE: ${config.unread}` : "");
  at("connections").textContent = whole(status.connections);
  const rejected = (of) => Object.values(of.rejects).reduce((sum, count) => sum + count, 0);
  tile("rate", rate(status.opened, before?.status.opened), (value) => value.toFixed(1));
  tile("up", rate(status.bytes_up, before?.status.bytes_up), bits);
  tile("down", rate(status.bytes_down, before?.status.bytes_down), bits);
  tile("rejected", rate(rejected(status), before && rejected(before.status)), (value) => value.toFixed(1));

  rows("problems", problems.slice(0, 100), (it) => [
    [it.severity, { error: "bad", warning: "warn" }[it.severity]],
    it.object + (it.at ? ` (${it.at})` : ""), [it.path, it.what].filter(Boolean).join(": "), it.hint,
  ], "none");
  rows("listeners", status.listeners, (it) => [
    it.name, it.vips.join(" "), it.port, number(it.routes), number(it.active), number(it.opened),
    it.unbound.length ? [`${it.draining ? "draining, " : ""}cannot listen on ${it.unbound.join(" ")}`, "bad"]
      : it.draining ? ["draining", "warn"] : ["serving", "good"],
  ], "none is served");
  at("datapath").textContent =
    `The best there is: ${status.datapath}` + (status.declined ? `; no better one: ${status.declined}` : "");
  rows("carried", Object.entries(status.carried), ([name, count]) => [name, number(count)], "nothing is carried");
  rows("declines", Object.entries(status.declines), ([name, count]) => [name, number(count)], "none");
  rows("rejects", Object.entries(status.rejects), ([name, count]) => [
    name, number(count), per(rate(count, before && (before.status.rejects[name] ?? 0))),
  ], "none");
  rows("closed", Object.entries(status.closed), ([name, count]) => [
    name, number(count), per(rate(count, before && (before.status.closed[name] ?? 0))),
  ], "none has ended");
  hosts(now, rate);
  endpoints(now, rate);
  const attached = kernel.interfaces.filter((it) => it.program).map((it) => `${it.name} (${it.program})`);
  const interfaces = attached.join(", ") || "no interface";
  at("kernel").textContent =
    `Linux ${kernel.release}; packets of ${interfaces} are looked at` +
    (kernel.pins ? `; pinned at ${kernel.pins}` : "; nothing is pinned: connections end with the process");
  rows("maps", kernel.maps.filter((it) => it.used != null && !it.forgets), (it) => [
    it.name, number(it.used), number(it.capacity), meter(it.used, it.capacity),
  ], "no map is counted");
}

function hosts(now, rate) {
  const key = (it) => `${it.listener} ${it.pattern}`;
  const old = new Map((before?.routes ?? []).map((it) => [key(it), it.opened]));
  const all = now.routes.map((it) => ({ ...it, rate: rate(it.opened, old.get(key(it))) }));
  all.sort((a, b) => (b.rate ?? 0) - (a.rate ?? 0) || b.opened - a.opened);
  rows("hosts", all.slice(0, SHOWN), (it) => [
    it.pattern, it.listener, it.backend, number(it.active), number(it.opened), per(it.rate),
  ], "there are no routes");
}

function endpoints(now, rate) {
  const flat = (backends) => backends.flatMap((backend) =>
    backend.endpoints.map((it) => ({ ...it, backend: backend.name, key: `${backend.name} ${it.cluster} ${it.address}` })));
  const old = new Map(flat(before?.backends ?? []).map((it) => [it.key, it.chosen]));
  const all = flat(now.backends).map((it) => ({ ...it, rate: rate(it.chosen, old.get(it.key)) }));
  const urgent = (it) => (it.state === "good" ? 0 : 1);
  all.sort((a, b) => urgent(b) - urgent(a) || (b.rate ?? 0) - (a.rate ?? 0) || b.active - a.active);
  rows("endpoints", all.slice(0, 2 * SHOWN), (it) => [
    it.backend, it.address + (it.cluster ? ` (${it.cluster})` : ""),
    [it.state, { good: "good", failing: "bad", draining: "warn" }[it.state]],
    number(it.active), number(it.chosen), per(it.rate), number(it.failed),
  ], "no endpoint is known");
}

/** A number and its history. */
function tile(id, value, shown) {
  at(id).textContent = value === null ? "–" : shown(value);
  const line = lines[id];
  line.push(value ?? 0);
  if (line.length > HISTORY) line.shift();
  const most = Math.max(...line, 1e-9);
  const points = line.map((it, index) => `${(index / (HISTORY - 1)) * 100},${29 - (it / most) * 27}`);
  const svg = at(`${id}-line`);
  svg.setAttribute("viewBox", "0 0 100 30");
  svg.setAttribute("preserveAspectRatio", "none");
  const drawn = svg.firstChild ?? svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "polyline"));
  drawn.setAttribute("points", points.join(" "));
}

/** Rows of cells: texts, [text, class], or elements. Texts are never read as HTML. */
function rows(id, all, cells, empty) {
  const made = all.map((it) => {
    const row = document.createElement("tr");
    for (const cell of cells(it)) {
      const made = document.createElement("td");
      if (cell instanceof Element) made.append(cell);
      else if (Array.isArray(cell)) [made.textContent, made.className] = [cell[0], cell[1] ?? ""];
      else made.textContent = cell ?? "";
      row.append(made);
    }
    return row;
  });
  if (made.length === 0) {
    const cell = document.createElement("td");
    [cell.textContent, cell.className, cell.colSpan] = [empty, "empty", 9];
    const row = document.createElement("tr");
    row.append(cell);
    made.push(row);
  }
  at(id).tBodies[0].replaceChildren(...made);
}

function meter(value, max) {
  const made = document.createElement("meter");
  Object.assign(made, { max, high: 0.8 * max, optimum: 0, value });
  return made;
}

const whole = (count) => count.toLocaleString("en");
const number = (count) => [whole(count), "number"];
const per = (rate) => [rate === null ? "–" : rate.toFixed(1), "number"];

function bits(bytes) {
  let value = bytes * 8;
  for (const unit of ["bit/s", "kbit/s", "Mbit/s"]) {
    if (value < 999.5) return `${value.toFixed(value < 10 ? 1 : 0)} ${unit}`;
    value /= 1000;
  }
  return `${value.toFixed(2)} Gbit/s`;
}

function time(seconds) {
  const [days, hours, minutes] = [seconds / 86400, (seconds / 3600) % 24, (seconds / 60) % 60].map(Math.floor);
  if (days) return `${days} d ${hours} h`;
  return hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min` : `${Math.floor(seconds)} s`;
}

look();
