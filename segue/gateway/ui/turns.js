// Parts of a turn as [kind, start, end] in seconds since its receipt.
function partsOf(turn) {
  const end = turn.end, why = turn.explanation;
  if (!end || !end.timings.first_token_s) {
    const first = why.actual_s === null ? turn.age_s : Math.min(why.actual_s, turn.age_s);
    if (turn.outcome !== "running") return [["queue", 0, first]];
    return why.actual_s === null ? [["queue", 0, first]] : [["prefill", 0, first], ["decode", first, turn.age_s]];
  }
  const t = end.timings, computed = t.queue_s + t.prefill_s, arrived = computed + t.exposed_transfer_s;
  const parts = [["queue", 0, t.queue_s], ["prefill", t.queue_s, computed]];
  if (t.transfer_s) parts.push(["transfer", Math.max(arrived - t.transfer_s, 0), arrived]);
  parts.push(["decode", t.first_token_s, t.first_token_s + t.decode_s]);
  return parts.filter(([, from, to]) => to > from);
}
const firstOf = (turn) => (turn.end && turn.end.timings.first_token_s) || turn.explanation.actual_s || turn.age_s;
const expectedOf = (turn) => (turn.end ? turn.end.timings.router_s : 0) + turn.explanation.estimated_s;

function axisOf(turns, scale) {
  const length = (turn) => Math.max(expectedOf(turn), scale === "first" ? firstOf(turn) : Math.max(...partsOf(turn).map((part) => part[2]), 0));
  const longest = Math.max(...turns.map(length), 1e-6);
  return (turn) => (scale === "own" ? Math.max(length(turn), 1e-6) : longest);
}

function createTurn() {
  const cells = {};
  const summary = make("summary");
  for (const name of ["when", "session", "outcome", "path", "tokens"])
    summary.append((cells[name] = make("span", { class: name })));
  summary.append((cells.fall = make("span", { class: "fall", role: "img" })), (cells.took = make("span", { class: "took" })));
  cells.why = make("div", { class: "why" });
  const details = make("details", {}, summary, cells.why);
  const item = make("li", {}, details);
  details.addEventListener("toggle", () => details.open && showWhy(item.cells.why, item.turn));
  item.cells = cells;
  item.details = details;
  return item;
}

function showTurn(item, turn, axis) {
  const cells = item.cells, why = turn.explanation, end = turn.end, chosen = why.candidates.find((one) => one.chosen);
  item.turn = turn;
  say(cells.when, `${lasted(turn.age_s).split(" ").slice(0, 2).join(" ")}`);
  say(cells.session, why.session_id || "no session");
  cells.session.title = `${why.session_id} · turn ${why.turn_id}`;
  say(cells.outcome, turn.outcome, `outcome ${OUTCOME[turn.outcome] || "failing"}`);
  say(cells.path, chosen ? `${chosen.mode} ${pathOf(chosen)}` : "");
  cells.path.title = cells.path.textContent;
  const reused = end ? end.usage.cached_tokens + end.usage.pulled_tokens : 0;
  say(cells.tokens, `${whole(why.prompt_tokens)}${reused ? ` (${whole(reused)} reused)` : ""} → ${end ? whole(end.usage.completion_tokens) : "…"}`);
  cells.tokens.title = "prompt tokens → answer tokens";
  say(cells.took, why.actual_s === null && !end ? "no token yet" : `first ${took(firstOf(turn))}`);
  drawFall(cells.fall, turn, axis(turn));
  // What is open and ended does not change.
  if (item.details.open && !end) showWhy(cells.why, turn);
}

function drawFall(fall, turn, axis) {
  const parts = partsOf(turn), expected = expectedOf(turn);
  const bars = [...parts, ["expected", expected, expected]];
  while (fall.children.length > bars.length) fall.lastChild.remove();
  while (fall.children.length < bars.length) fall.append(make("i"));
  bars.forEach(([kind, from, to], index) => {
    const bar = fall.children[index], start = Math.min(from / axis, 1);
    bar.className = kind;
    bar.style.left = `${100 * start}%`;
    bar.style.width = kind === "expected" ? "" : `${100 * (Math.min(to / axis, 1) - start)}%`;
  });
  const words = parts.map(([kind, from, to]) => `${kind} ${took(to - from)}`).join(", ");
  fall.setAttribute("aria-label", words);
  fall.title = `${words}; first token expected after ${took(expected)}`;
}

function pathOf(one) {
  if (one.mode === "local") return one.decode_worker;
  return `${one.source_worker ? `${one.source_worker}→` : ""}${one.prefill_worker}→${one.decode_worker}`;
}

const COSTS = ["queue", "pull", "compute", "move", "hidden", "interference", "overhead", "total"];
function showWhy(panel, turn) {
  const why = turn.explanation, end = turn.end;
  panel.replaceChildren();
  if (end) {
    const t = end.timings, u = end.usage;
    panel.append(make("p", { text: [
      `queue ${took(t.queue_s)}`, `prefill ${took(t.prefill_s)}`, `transfer ${took(t.transfer_s)} (exposed ${took(t.exposed_transfer_s)})`,
      `first token ${took(t.first_token_s)}`, `decode ${took(t.decode_s)}`,
      `${whole(u.shipped_bytes / 1024)} KiB shipped`, `${whole(u.cached_tokens)} cached, ${whole(u.pulled_tokens)} pulled, ${whole(u.resident_tokens)} resident`,
      ...(u.drafted_tokens ? [`${whole(u.accepted_tokens)} of ${whole(u.drafted_tokens)} drafts accepted`] : []),
      ...(u.resumed ? [`resumed ${u.resumed}×`] : []),
    ].join(" · ") }));
  }
  const actual = why.actual_s === null ? "not there yet" : `${took(why.actual_s)} taken`;
  panel.append(make("p", { text: `First token after its placement: ${took(why.estimated_s)} expected, ${actual}. Decided in ${whole(why.decision_s * 1e6)} µs among ${counted(turn.num_candidates, "candidate")}${why.candidates.length < turn.num_candidates ? `, of which these ${why.candidates.length}` : ""}. Tokens, and expected milliseconds:` }));
  const shown = COSTS.filter((name) => why.candidates.some((one) => Math.abs(one[`${name}_s`]) >= 5e-5));
  const head = make("tr", {}, ...["", "mode", "workers"].map((text) => make("th", { scope: "col", text })));
  for (const text of ["computed", "moved", ...shown]) head.append(make("th", { scope: "col", class: "number", text }));
  head.append(make("th", { scope: "col", text: "excluded" }));
  const rows = why.candidates.map((one) => make("tr", { class: one.chosen ? "chosen" : one.excluded ? "excluded" : "" },
    make("td", { text: one.chosen ? "▶" : "", ...(one.chosen && { "aria-label": "chosen" }) }), make("td", { text: one.mode }), make("td", { text: pathOf(one) }),
    ...[whole(one.computed_tokens), whole(one.moved_tokens), ...shown.map((name) => (one[`${name}_s`] * 1e3).toFixed(1))].map((text) => make("td", { class: "number", text })),
    make("td", { text: one.excluded.replaceAll("_", " ") })));
  panel.append(make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
}

// A turn's id is free again once it has ended.
function nameTurns(turns) {
  const seen = new Map();
  for (const turn of [...turns].reverse()) {
    const id = turn.explanation.turn_id, count = seen.get(id) || 0;
    seen.set(id, count + 1);
    turn.name = `${id} ${count}`;
  }
  return turns;
}

function showTurns() {
  const scale = document.querySelector("input[name=scale]:checked").value;
  const axis = axisOf(state.turns, scale);
  $("no-turns").hidden = state.turns.length > 0;
  keyed($("turns"), state.turns, (turn) => turn.name, createTurn, (item, turn) => {
    const hadEnd = item.turn && item.turn.end;
    showTurn(item, turn, axis);
    if (item.details.open && turn.end && !hadEnd) showWhy(item.cells.why, turn);
  });
}
