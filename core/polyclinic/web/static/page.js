// An open page: it is told that something changed, fetches itself again, and puts its parts in
// place. What it shows was escaped by the server; no text ever becomes code here.

const KEY = "polyclinic-token";
const AGAIN_MS = 2000; // least time between two fetches
const units = [["day", 86400], ["h", 3600], ["min", 60], ["s", 1]];
const shown = new Map(); // id of a part -> its HTML as the server wrote it

const token = () => sessionStorage.getItem(KEY) ?? "";
const pulse = document.getElementById("pulse");

// ---- times

function ago(seconds) {
  if (seconds < 2) return "now";
  const [unit, length] = units.find(([, length]) => seconds >= length);
  const count = Math.floor(seconds / length);
  return `${count} ${unit}${unit === "day" && count > 1 ? "s" : ""} ago`;
}

function tell(element) {
  const at = Number(element.dataset.at);
  const seconds = Date.now() / 1000 - at;
  element.title = new Date(at * 1000).toLocaleString();
  const text = seconds < -5 ? element.title : ago(Math.max(0, seconds));
  if (element.textContent !== text) element.textContent = text;
}

function tellTimes() {
  document.querySelectorAll("time[data-at]").forEach(tell);
}

// ---- parts

function remember(root) {
  root.querySelectorAll("[data-part]").forEach((part) => shown.set(part.id, part.innerHTML));
}

// What somebody types is not taken away; the part is put in place at the next change.
function isWrittenIn(part) {
  const field = document.activeElement;
  return part.contains(field) && field.matches("input, textarea, select");
}

function place(part, fresh) {
  const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
  const open = [...part.querySelectorAll("details[open][id]")].map((each) => each.id);
  const scrolled = [...part.querySelectorAll(".scroll")].map((each) => [each.scrollLeft, each.scrollTop]);
  part.replaceChildren(...fresh.childNodes);
  open.forEach((id) => document.getElementById(id)?.setAttribute("open", ""));
  part.querySelectorAll(".scroll").forEach((each, index) => {
    [each.scrollLeft, each.scrollTop] = scrolled[index] ?? [0, 0];
  });
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

async function refresh() {
  const answer = await fetch(location.href, { headers: { accept: "text/html" } });
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  fresh.querySelectorAll("[data-part]").forEach((each) => {
    const part = document.getElementById(each.id);
    if (!part || shown.get(each.id) === each.innerHTML || isWrittenIn(part)) return;
    shown.set(each.id, each.innerHTML);
    place(part, each);
  });
  tellTimes();
}

// ---- changes; a hidden page asks for nothing

let stream = null;
let version = document.body.dataset.version; // of what is shown
let waiting = false;
let last = 0;

function soon() {
  if (waiting) return;
  waiting = true;
  setTimeout(async () => {
    waiting = false;
    last = Date.now();
    try { await refresh(); } catch { lost(); }
  }, Math.max(0, last + AGAIN_MS - Date.now()));
}

function lost() {
  pulse.textContent = "not connected";
  pulse.className = "pulse lost";
}

function listen() {
  if (stream || document.hidden || !document.querySelector("[data-part]")) return;
  stream = new EventSource("/changes");
  stream.addEventListener("open", () => {
    pulse.textContent = "live";
    pulse.className = "pulse live";
  });
  stream.addEventListener("change", (event) => {
    if (version !== event.data) soon();
    version = event.data;
  });
  stream.addEventListener("error", () => {
    lost();
    if (stream?.readyState === EventSource.CLOSED) {
      stream = null;
      setTimeout(listen, 5000);
    }
  });
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    stream?.close();
    stream = null;
  } else {
    listen();
    if (document.querySelector("[data-part]")) soon();
  }
});

// ---- deeds

function say(form, text, good) {
  const output = form.querySelector("output");
  output.textContent = text;
  output.className = good ? "good" : "bad";
}

async function post(address, values, secret) {
  const answer = await fetch(address, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${secret}` },
    body: JSON.stringify(values),
  });
  const said = await answer.json().catch(() => ({ error: `The answer was ${answer.status}.` }));
  return { ok: answer.ok, status: answer.status, ...said };
}

async function act(form) {
  const values = Object.fromEntries(new FormData(form));
  const button = form.querySelector("button");
  button.disabled = true;
  say(form, "One moment …", true);
  try {
    const said = await post(`/deeds/${form.dataset.deed}`, values, token());
    if (said.status === 401) {
      sessionStorage.removeItem(KEY);
      showSigned();
    }
    say(form, said.ok ? said.said : said.error, said.ok);
    if (said.kit) {
      const link = document.createElement("a");
      link.href = said.kit;
      link.download = "";
      link.textContent = "Download the kit";
      form.querySelector("output").append(" ", link);
    }
    if (said.ok) soon();
  } catch {
    say(form, "The page’s server did not answer.", false);
  } finally {
    button.disabled = false;
  }
}

async function signIn(form, secret) {
  const said = await post("/session", {}, secret);
  if (!said.ok) {
    say(form, said.error, false);
    return;
  }
  sessionStorage.setItem(KEY, secret);
  location.assign("/");
}

function showSigned() {
  const signed = token() !== "";
  document.documentElement.classList.toggle("signed-in", signed);
  const sign = document.getElementById("sign");
  sign.textContent = signed ? "Sign out" : "Sign in";
}

document.getElementById("sign").addEventListener("click", (event) => {
  if (!token()) return;
  event.preventDefault();
  sessionStorage.removeItem(KEY);
  location.assign("/sign-in");
});

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.id === "sign-in") {
    event.preventDefault();
    signIn(form, form.elements.token.value.trim());
  } else if (form.dataset.deed) {
    event.preventDefault();
    act(form);
  }
});

const entrance = document.getElementById("sign-in");
if (entrance && location.hash.length > 1) {
  const secret = decodeURIComponent(location.hash.slice(1));
  history.replaceState(null, "", location.pathname);
  signIn(entrance, secret);
}

remember(document);
showSigned();
tellTimes();
setInterval(tellTimes, 1000);
listen();
