"use strict";
// Texts from users reach the page as text nodes and attributes only.
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const HEALTH = { ready: "good", warming: "info", draining: "warning", stuck: "failing", lost: "failing" };
const OUTCOME = { stop: "good", length: "good", running: "info", cancelled: "dim", disconnected: "dim" };
const HISTORY = 120, STALE_MS = 4000, RETRY_MS = 1000, MAX_RETRY_MS = 8000;
const state = { key: "", rates: [], router: null, seenAt: 0, freshAt: 0, stream: null, turns: [], away: "" };

function make(name, options = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(options)) {
    if (key === "text") node.textContent = value;
    else if (key === "class") node.className = value;
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}
// Unchanged text is left alone, so that it can be selected.
function say(node, text, name) {
  if (node.textContent !== text) node.textContent = text;
  if (name !== undefined && node.className !== name) node.className = name;
}
const whole = (number) => Math.round(number).toLocaleString("en");
const counted = (number, noun) => `${whole(number)} ${noun}${number === 1 ? "" : "s"}`;
function took(seconds) {
  const ms = seconds * 1e3;
  if (Math.abs(ms) < 10) return `${ms.toFixed(1)} ms`;
  return Math.abs(ms) < 1e4 ? `${whole(ms)} ms` : `${seconds.toFixed(1)} s`;
}
function lasted(seconds) {
  const s = Math.floor(seconds), m = Math.floor(s / 60), h = Math.floor(m / 60);
  if (h >= 48) return `${Math.floor(h / 24)} days`;
  if (h) return `${h} h ${m % 60} min`;
  return m ? `${m} min ${s % 60} s` : `${s} s`;
}

// Keeps one node for each key, in the keys' order.
function keyed(parent, items, keyOf, create, update) {
  const known = parent.nodes || (parent.nodes = new Map());
  const wanted = new Set(items.map(keyOf));
  for (const [key, node] of known) if (!wanted.has(key)) { node.remove(); known.delete(key); }
  items.forEach((item, index) => {
    let node = known.get(keyOf(item));
    if (!node) known.set(keyOf(item), (node = create(item)));
    if (parent.children[index] !== node) parent.insertBefore(node, parent.children[index] || null);
    update(node, item);
  });
}

function showHead(cluster) {
  const router = cluster.router;
  const absent = cluster.workers.filter((one) => one.health === "lost" || one.health === "stuck");
  const words = !cluster.ready ? "not ready"
    : absent.length ? `ready without ${absent.map((one) => one.worker_id).join(", ")}` : "ready";
  say($("verdict"), words, `verdict ${!cluster.ready ? "failing" : absent.length ? "warning" : "good"}`);
  const scales = cluster.fleet.autoscales ? " · autoscaling" : "";
  say($("about"), `${cluster.model} · router ${router.address}, up ${lasted(router.uptime_s)}${scales}`);
  const changes = cluster.fleet.changes;
  $("fleet").hidden = !changes.length;
  say($("fleet"), `scaling to ${cluster.fleet.prefill} prefill and ${cluster.fleet.decode} decode: ${changes.join("; ")}`);
  document.title = `Segue · ${words}`;
}

function acceptance(now, before) {
  let { drafted_tokens: drafted, accepted_tokens: accepted } = now;
  if (before && before.pid === now.pid && drafted > before.drafted_tokens) {
    drafted -= before.drafted_tokens;
    accepted -= before.accepted_tokens;
  }
  return drafted ? `${Math.round((100 * accepted) / drafted)} %` : "–";
}

function showTiles(router) {
  state.rates = [...state.rates, router.completion_tokens_per_s].slice(-HISTORY);
  const tiles = [
    ["throughput", whole(router.completion_tokens_per_s), "tokens/s", state.rates],
    ["turns", `${whole(router.running_turns)} running`, `${whole(router.waiting_turns)} waiting`],
    ["turns ended", whole(router.finished_turns), `${whole(router.failed_turns)} failed, ${whole(router.cancelled_turns)} cancelled`],
    ["each turn, at least", router.turn_tokens_per_s ? whole(router.turn_tokens_per_s) : "–", "tokens/s"],
    ["prefill queue", took(router.prefill_queue_s), counted(router.outstanding_handoffs, "handoff")],
    ["sessions", whole(router.sessions), ""],
    ["MTP acceptance", acceptance(router, state.router), ""],
  ];
  keyed($("tiles"), tiles, (tile) => tile[0], createTile, (node, tile) => {
    say(node.value, tile[1]);
    say(node.unit, tile[2]);
    if (tile[3]) drawSpark(node.spark, tile[3]);
  });
}

function createTile([name, , , values]) {
  const value = make("span"), unit = make("small");
  const tile = make("div", {}, make("dt", { text: name }), make("dd", {}, value, " ", unit));
  Object.assign(tile, { value, unit });
  if (values) {
    tile.className = "wide";
    tile.spark = document.createElementNS(SVG, "svg");
    for (const [key, text] of Object.entries({ class: "spark", viewBox: `0 0 ${HISTORY - 1} 100`, preserveAspectRatio: "none", "aria-hidden": "true" }))
      tile.spark.setAttribute(key, text);
    tile.spark.append(document.createElementNS(SVG, "polyline"));
    tile.append(tile.spark);
  }
  return tile;
}

function drawSpark(svg, values) {
  const top = Math.max(...values, 1e-9), first = HISTORY - values.length;
  svg.firstChild.setAttribute("points",
    values.map((value, index) => `${first + index},${(98 - (96 * value) / top).toFixed(1)}`).join(" "));
}

const UNITS = [["working", "working"], ["reserved", "reserved"], ["cached", "cached"], ["quarantined", "bad"], ["stray", "bad"]];
function createWorker(worker) {
  const row = make("tr", { role: "row" }, make("th", { scope: "row", role: "rowheader", text: worker.worker_id, title: `${worker.address} ${worker.operators}`.trim() }));
  for (const name of ["role", "health", "running", "waiting", "queued", "tok/s", "sessions"])
    row.append(make("td", { role: "cell", "data-name": name, ...(row.children.length > 2 && { class: "number" }) }));
  for (const name of ["pages", "slots", "host pages"]) {
    const meter = make("div", { class: "meter", role: "img" }, ...UNITS.map(([, kind]) => make("i", { class: kind })));
    row.append(make("td", { role: "cell" }, meter, make("span", { class: "share", "data-name": name })));
  }
  return row;
}

function showWorker(row, worker) {
  const load = worker.load, cells = row.children;
  const left = worker.health === "draining" ? ` ${whole(worker.drain_left_s)} s` : "";
  [worker.role, worker.health + left, whole(load.running_turns), whole(load.waiting_turns),
    whole(load.waiting_tokens), whole(load.tokens_per_s), whole(load.leased_sessions)]
    .forEach((text, index) => say(cells[index + 1], text));
  cells[2].className = HEALTH[worker.health] || "";
  [load.pages, load.slots, load.host_pages].forEach((units, index) => showUnits(cells[8 + index], units));
}

function showUnits(cell, units) {
  const [meter, share] = cell.children;
  meter.hidden = !units.total;
  const used = units.total - units.free - units.cached;
  const words = units.total ? `${whole(used)} used, ${whole(units.cached)} cached of ${whole(units.total)}` : "–";
  say(share, words);
  meter.setAttribute("aria-label", words);
  const parts = UNITS.map(([name]) => (units[name] ? `${whole(units[name])} ${name}` : "")).filter(Boolean);
  meter.title = [`${whole(units.free)} free`, ...parts].join(", ");
  UNITS.forEach(([name], index) => {
    meter.children[index].style.width = `${(100 * units[name]) / (units.total || 1)}%`;
  });
}
