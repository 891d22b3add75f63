function showDocument(shown) {
  state.seenAt = performance.now();
  state.away = shown.away ? `The router does not answer: ${shown.away}` : "";
  if (!shown.away) state.freshAt = state.seenAt;
  showLink();
  if (shown.away) return;
  $("ask").hidden = true;
  $("main").hidden = false;
  showHead(shown.cluster);
  showTiles(shown.cluster.router);
  keyed($("workers").tBodies[0], shown.cluster.workers, (one) => one.worker_id, createWorker, showWorker);
  state.turns = nameTurns(shown.turns);
  showTurns();
  say($("no-turns"), shown.turns_error || "No turn yet.");
  state.router = shown.cluster.router;
}

function whyAway() {
  if (!$("ask").hidden || document.hidden) return "";
  if (state.away) return state.away;
  if (performance.now() - state.seenAt < STALE_MS) return "";
  return "The gateway does not answer, or waits for its router.";
}

function showLink() {
  const words = whyAway();
  $("away").hidden = !words;
  say($("away-why"), words);
  // Outside of what is read aloud: it changes every second.
  say($("away-for"), words ? `No news for ${whole((performance.now() - state.freshAt) / 1e3)} s.` : "");
  say($("link"), words ? "reconnecting" : $("main").hidden ? "" : "live");
  if (words) say($("verdict"), "unknown", "verdict failing");
}

async function read(signal) {
  const headers = state.key ? { authorization: `Bearer ${state.key}` } : {};
  // Relative, so that a proxy may serve the gateway below a path.
  const response = await fetch("ui/events", { headers, signal, cache: "no-store" });
  if (!response.ok) {
    const body = await response.json().catch(() => ({}));
    throw Object.assign(new Error(body.error ? body.error.message : response.statusText), { status: response.status });
  }
  const decoder = new TextDecoder(), reader = response.body.getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (rest + decoder.decode(value, { stream: true })).split("\n\n");
    rest = events.pop();
    for (const event of events) take(event);
  }
}

function take(event) {
  const lines = event.split("\n");
  const data = lines.find((line) => line.startsWith("data: "));
  if (!data) return;
  const shown = JSON.parse(data.slice(6));
  if (lines[0] === "event: error") throw Object.assign(new Error(shown.error.message), { status: shown.status });
  showDocument(shown);
}

async function follow() {
  const stream = (state.stream = new AbortController());
  let wait = RETRY_MS;
  while (!stream.signal.aborted) {
    const before = state.seenAt;
    try {
      await read(stream.signal);
    } catch (error) {
      if (stream.signal.aborted) return;
      if (error.status === 401) return askKey(error.message);
      state.away = error.status ? `Refused (${error.status}): ${error.message}` : `The gateway does not answer: ${error.message}`;
      showLink();
    }
    wait = state.seenAt > before ? RETRY_MS : Math.min(wait * 2, MAX_RETRY_MS);
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

function askKey(reason) {
  const had = state.key;
  keep("");
  state.away = "";
  $("ask").hidden = false;
  $("main").hidden = true;
  showLink();
  say($("verdict"), "an API key is needed", "verdict warning");
  say($("refused"), had ? reason : "", "failing");
  $("key").focus();
}

function keep(key) {
  state.key = key;
  $("forget").hidden = !key;
  try { key ? sessionStorage.setItem("segue-key", key) : sessionStorage.removeItem("segue-key"); } catch { /* The tab keeps it. */ }
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  keep($("key").value.trim());
  $("key").value = "";
  $("ask").hidden = true;
  state.seenAt = state.freshAt = performance.now();
  follow();
});
$("forget").addEventListener("click", () => { state.stream.abort(); askKey(""); });
$("scale").addEventListener("change", showTurns);
// Nothing is asked for a tab that nobody sees.
document.addEventListener("visibilitychange", () => {
  if (!$("ask").hidden) return;
  state.stream.abort();
  if (document.hidden) return;
  state.seenAt = performance.now();
  follow();
});
setInterval(showLink, 1000);
try { keep(sessionStorage.getItem("segue-key") || ""); } catch { /* Private windows may have none. */ }
follow();
