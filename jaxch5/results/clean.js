"use strict";

const ANSWERS = { keep: "✓ keep", class: "→ ", drop: "✕ drop", unsure: "? not sure" };
// At most this many pairs of classes, and this many classes that match what was typed, are listed:
// typing more of a name is faster than reading a longer list.
const PAIRS = 200, FOUND = 12;
const AGAIN = 2000;
const $ = (id) => document.getElementById(id);
const sleep = (time) => new Promise((done) => setTimeout(done, time));

let data, classes, offered, answers, seen;
// The suspects shown, the position of the current one, and where a selection of several began.
let order = [], at = 0, anchor = 0;
let grid = false, looks = false;
// Answers that are not saved yet, oldest first.
const queue = [];
let sending = false;

function make(tag, values = {}, ...children) {
  const made = Object.assign(document.createElement(tag), values);
  made.append(...children);
  return made;
}

const name = (number) => make("bdi", {}, classes[number]);
const part = (given) => (given === "valid" ? "validation" : "training");
const share = (value) => (value == null ? "–" : `${(100 * value).toFixed(1)} %`);
const same = (one, other) => one.toLowerCase() === other.normalize("NFC").toLowerCase();
const chosen = () => order.slice(Math.min(at, anchor), Math.max(at, anchor) + 1);

function image(size, number, alt) {
  const shown = make("img", { alt, decoding: "async" });
  const address = `/${size}/${number}?${data.digest}`;
  shown.onload = () => shown.classList.toggle("tiny", Math.max(shown.naturalWidth, shown.naturalHeight) <= data.tiny);
  shown.onerror = async () => {
    let reason = "the server is gone";
    try { reason = await (await fetch(address)).text(); } catch { /* the reason above holds */ }
    shown.replaceWith(make("div", { className: "broken" }, make("bdi", {}, reason)));
  };
  shown.src = address;
  return shown;
}

function badge(suspect) {
  const answer = answers[suspect];
  if (!answer) return "";
  const [kind, number, pending] = answer;
  const text = kind === "class" && number == null ? "→ new" : ANSWERS[kind];
  const more = kind === "class" && number != null ? [name(number)] : [];
  return make("span", { className: `answer ${kind}${pending ? " pending" : ""}` }, text, ...more);
}

function draw() {
  const counts = { keep: 0, class: 0, drop: 0, unsure: 0 };
  const known = Object.values(answers).filter(Boolean);
  known.forEach(([kind]) => (counts[kind] += 1));
  $("progress").textContent = `${known.length} of ${data.suspects.length} answered: ${counts.keep} kept, ` +
    `${counts.class} relabelled, ${counts.drop} dropped, ${counts.unsure} not sure`;
  $("bar").value = data.suspects.length ? known.length / data.suspects.length : 1;
  $("none").hidden = order.length > 0;
  $("one").hidden = grid || !order.length;
  $("many").hidden = !grid || !order.length;
  document.querySelector("[data-do=grid]").setAttribute("aria-pressed", grid);
  document.querySelector("[data-do=looks]").setAttribute("aria-pressed", looks);
  if (!order.length) return;
  const suspect = data.suspects[order[at]];
  $("other").textContent = chosen().length > 1 ? "as predicted" : classes[suspect.prediction];
  if (grid) drawMany(); else drawOne(order[at]);
}

let drawn;
function drawOne(number) {
  const suspect = data.suspects[number], key = `${number} ${looks}`;
  if (drawn !== key) {
    drawn = key;
    $("picture").replaceChildren(looks && !data.no_looks
      ? image("looks", number, `where the network looks for ${classes[suspect.prediction]}`)
      : image("large", suspect.image, `labelled ${classes[suspect.label]}, looks like ${classes[suspect.prediction]}`));
    $("facts").replaceChildren(...facts(suspect));
    $("facts").scrollTop = 0;
    // Preload the next pictures.
    for (const next of order.slice(at + 1, at + 4)) new Image().src = `/large/${data.suspects[next].image}?${data.digest}`;
  }
  $("answer").replaceChildren(`${at + 1} of ${order.length} `, badge(number));
}

function facts(suspect) {
  const fact = (term, ...value) => [make("dt", {}, term), make("dd", {}, ...value)];
  const bar = (value) => (value == null ? [share(value)] : [make("meter", { value, min: 0, max: 1 }), ` ${share(value)}`]);
  const near = (one, ...words) => make("figure", {}, image("small", one, data.names[one]), ...words);
  const row = (title, figures) => (figures.length ? [make("h3", {}, ...title), make("div", { className: "row" }, ...figures)] : []);
  const { label, prediction, nearest } = suspect;
  return [
    make("p", { id: "answer" }),
    make("dl", {},
      ...fact("labelled", make("b", {}, name(label)), " ", ...bar(suspect.label_probability)),
      ...fact("looks like", make("b", {}, name(prediction)), " ", ...bar(suspect.probability)),
      ...fact("doubt", share(suspect.doubt)),
      ...fact("part", part(suspect.part)),
      ...fact("file", make("bdi", { className: "quiet" }, data.names[suspect.image]))),
    ...(looks && data.no_looks ? [make("p", {}, `Where the network looks is not shown: ${data.no_looks}.`)] : []),
    ...row(["nearest of ", name(label)], nearest.label.map((one) => near(one))),
    ...row(["nearest of ", name(prediction)], nearest.prediction.map((one) => near(one))),
    ...row(["nearly the same picture"], suspect.twins.map((one) => near(one.image, make("bdi", {}, one.label), `, ${part(one.part)}`))),
  ];
}

// Only visible cells are in the page, however many suspects there are.
const cells = new Map();
function sizes() {
  const width = $("many").clientWidth, across = Math.max(2, Math.floor(width / (width < 500 ? 115 : 170)));
  const side = width / across;
  return { across, side, height: side + 44 };
}

function drawMany() {
  const { across, side, height } = sizes(), view = $("many");
  $("sheet").style.height = `${Math.ceil(order.length / across) * height}px`;
  const first = Math.max(0, Math.floor(view.scrollTop / height) - 1) * across;
  const last = Math.min(order.length, (Math.ceil((view.scrollTop + view.clientHeight) / height) + 1) * across);
  for (const [place, cell] of cells) {
    if (place < first || place >= last || cell.suspect !== order[place]) { cell.remove(); cells.delete(place); }
  }
  const [low, high] = [Math.min(at, anchor), Math.max(at, anchor)];
  for (let place = first; place < last; place += 1) {
    const number = order[place], suspect = data.suspects[number];
    let cell = cells.get(place);
    if (!cell) {
      cell = make("div", { className: "cell", id: `cell-${place}`, suspect: number },
        image("small", suspect.image, ""), make("div", {}, name(suspect.label)),
        make("div", {}, "sees ", name(suspect.prediction), ` ${share(suspect.probability)}`), make("div"));
      cell.setAttribute("role", "option");
      cell.onclick = (event) => move(place, event.shiftKey);
      cell.ondblclick = () => { grid = false; draw(); };
      cells.set(place, cell);
      $("sheet").append(cell);
    }
    Object.assign(cell.style, { left: `${(place % across) * side}px`, top: `${Math.floor(place / across) * height}px`, width: `${side}px`, height: `${height}px` });
    cell.setAttribute("aria-selected", place >= low && place <= high);
    cell.lastChild.replaceChildren(badge(number));
  }
  view.setAttribute("aria-activedescendant", `cell-${at}`);
}

function move(place, extend = false) {
  if (!order.length) return;
  at = Math.max(0, Math.min(order.length - 1, place));
  if (!extend || !grid) anchor = at;
  if (grid) {
    const { across, height } = sizes(), top = Math.floor(at / across) * height, view = $("many");
    if (top < view.scrollTop) view.scrollTop = top;
    if (top + height > view.scrollTop + view.clientHeight) view.scrollTop = top + height - view.clientHeight;
  }
  draw();
  const suspect = data.suspects[order[at]], answer = answers[order[at]];
  $("said").textContent = `${at + 1} of ${order.length}: labelled ${classes[suspect.label]}, looks like ` +
    `${classes[suspect.prediction]}, ${share(suspect.probability)}${answer ? `, answered ${answer[0]}` : ""}`;
}

function first() {
  const place = order.findIndex((number) => !answers[number]);
  if (place >= 0) return move(place);
  say($("filter").value ? "all of this pair are answered" : "all are answered: F finishes");
}

function tell(answer) {
  if (!order.length && answer.kind !== "undo") return;
  if (answer.kind !== "undo") {
    answer.suspects = chosen();
    for (const number of answer.suspects) answers[number] = [answer.kind, answer.class ?? null, true];
    const next = Math.max(at, anchor) + 1;
    if (next < order.length) move(next); else { anchor = at; draw(); }
  }
  queue.push(answer);
  send();
}

function say(text, trouble = false) {
  $("saved").textContent = text;
  $("saved").className = trouble ? "trouble" : "";
}

async function post(path, value) {
  return fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ ...value, digest: data.digest, seen }) });
}

function take(reply) {
  ({ seen, classes, offered } = reply);
  Object.assign(answers, reply.answers);
  // Unsaved answers still apply.
  for (const one of queue) for (const number of one.suspects ?? []) answers[number] = [one.kind, one.class ?? null, true];
}

async function send() {
  if (sending) return;
  sending = true;
  let doubt = "";
  while (queue.length) {
    say(doubt || "saving…", doubt);
    const head = queue[0];
    let hint = "start the command again, and leave this page open";
    const done = head.kind === "undo" ? "undone" : "saved";
    try {
      const reply = await post("/answer", head);
      if (reply.status === 409) {
        // The log has answers that this page has not seen: they are from another tab, or this page
        // sent them before the server stopped.
        const state = await reply.json(), known = state.answers;
        const added = state.offered.find((one) => same(state.classes[one], head.new ?? ""));
        const number = head.new ? added : head.class ?? null;
        const there = head.kind === "undo" || head.suspects.every((one) => known[one]?.[0] === head.kind && known[one][1] === number);
        if (there) queue.shift();
        // An undo is not repeated: the last answer may be one that the person has not seen. If the
        // server stopped before it replied, the undo was saved all the same.
        if (head.kind === "undo") doubt = "the last undo may have changed nothing: check the answers";
        take(state);
        $("said").textContent = "updated with answers that were given elsewhere";
      } else if (reply.ok) {
        queue.shift();
        const told = await reply.json();
        take(told);
        if (told.undone) show(Object.keys(told.answers).map(Number));
      } else if (reply.status === 507) {
        // The answer was not written, for example because the disk is full.
        hint = await reply.text();
        throw new Error(hint);
      } else {
        doubt = await reply.text();
        await load(1);
      }
      draw();
      if (doubt || !queue.length) say(doubt || done, doubt);
    } catch {
      say(`NOT saved: ${queue.length} ${queue.length === 1 ? "answer" : "answers"}; ${hint}`, true);
      await sleep(AGAIN);
    }
  }
  sending = false;
}

function show(numbers) {
  if (!numbers.length) return say("undone; the answer was about a picture that is not in this list");
  if (!order.includes(numbers[0])) { $("filter").value = ""; filter(); }
  move(order.indexOf(numbers[0]));
}

function filter() {
  const [label, prediction] = $("filter").value.split(",").map(Number);
  const all = [...data.suspects.keys()];
  order = $("filter").value ? all.filter((one) => data.suspects[one].label === label && data.suspects[one].prediction === prediction) : all;
  drawn = undefined;
  $("many").scrollTop = 0;
  move(0);
  draw();
}

function pairs() {
  const counts = new Map();
  for (const { label, prediction } of data.suspects) {
    const pair = `${label},${prediction}`;
    counts.set(pair, (counts.get(pair) ?? 0) + 1);
  }
  const sorted = [...counts].sort((a, b) => b[1] - a[1]);
  const options = sorted.slice(0, PAIRS).map(([value, count]) => {
    const [label, prediction] = value.split(",");
    return make("option", { value }, `${classes[label]} → ${classes[prediction]} (${count})`);
  });
  if (sorted.length > PAIRS) options.push(make("option", { disabled: true }, `and ${sorted.length - PAIRS} rarer pairs`));
  $("filter").replaceChildren(make("option", { value: "" }, `all pairs (${data.suspects.length})`), ...options);
}

let picked = 0, matches = [];
function complete() {
  const typed = $("typed").value.trim(), low = typed.toLowerCase();
  const at = (number) => classes[number].toLowerCase().indexOf(low);
  matches = offered.filter((number) => at(number) >= 0).sort((a, b) => at(a) - at(b) || a - b).slice(0, FOUND);
  if (typed && !matches.some((number) => classes[number].toLowerCase() === low)) matches.push(null);
  // A new class has to be chosen explicitly, so that a typing error does not add one.
  picked = matches[0] === null ? -1 : 0;
  list();
}

function list() {
  $("found").replaceChildren(...matches.map((number, place) => {
    const shown = number === null ? ["new class: ", make("bdi", {}, $("typed").value.trim())] : [name(number)];
    const item = make("li", { id: `found-${place}` }, ...shown);
    item.setAttribute("role", "option");
    item.setAttribute("aria-selected", place === picked);
    item.onclick = () => { picked = place; pick(); };
    return item;
  }));
  $("typed").setAttribute("aria-activedescendant", picked < 0 ? "" : `found-${picked}`);
}

function pick() {
  if (!matches.length) return;
  if (picked < 0) { picked = 0; return list(); }
  $("classes").close();
  // Without this, the text field might still receive the next key.
  $("typed").blur();
  const number = matches[picked];
  tell(number === null ? { kind: "class", new: $("typed").value.trim() } : { kind: "class", class: number });
}

async function finish() {
  if (queue.length) return say("not all answers are saved yet", true);
  try {
    const reply = await post("/finish", {});
    if (!reply.ok) return say(await reply.text(), true);
    const { lines, command } = await reply.json();
    $("lines").replaceChildren(...lines.map((line) => make("li", {}, make("bdi", {}, line))));
    $("command").textContent = command;
    $("finish").showModal();
  } catch {
    say("the server is gone; start the command again", true);
  }
}

const DO = {
  keep: () => tell({ kind: "keep" }),
  other: () => {
    // Several suspects can get the predicted class at once only if it is the same for all of them.
    const several = chosen();
    if (!several.length) return;
    const kinds = new Set(several.map((number) => data.suspects[number].prediction));
    if (kinds.size > 1) return say("the chosen pictures have different predictions: choose fewer, or one pair of classes", true);
    tell({ kind: "class", class: data.suspects[several[0]].prediction });
  },
  type: () => {
    if (!order.length) return;
    $("typed").value = "";
    complete();
    $("classes").showModal();
    $("typed").focus();
  },
  drop: () => tell({ kind: "drop" }),
  unsure: () => tell({ kind: "unsure" }),
  undo: () => tell({ kind: "undo" }),
  previous: () => move(at - 1),
  next: () => move(at + 1),
  first,
  finish,
  grid: () => { grid = !grid; draw(); move(at); $(grid ? "many" : "picture").focus(); },
  looks: () => { looks = !looks; draw(); },
  help: () => $("help").showModal(),
  pair: () => $("filter").focus(),
};
const KEYS = { k: "keep", o: "other", Enter: "other", t: "type", d: "drop", n: "unsure", " ": "unsure", u: "undo", j: "first", f: "finish", g: "grid", l: "looks", "?": "help", p: "pair" };

function pressed(event) {
  if (document.querySelector("dialog[open]") || event.target.matches("select, input")) return;
  const control = event.ctrlKey || event.metaKey;
  if (control && event.key.toLowerCase() === "z") { event.preventDefault(); return DO.undo(); }
  if (control || event.altKey || !data) return;
  // While a button has the focus, these keys press the button.
  if (event.target.matches("button") && (event.key === " " || event.key === "Enter")) return;
  const across = grid ? sizes().across : 1;
  const steps = { ArrowLeft: at - 1, ArrowRight: at + 1, ArrowUp: at - across, ArrowDown: at + across, Home: 0, End: order.length - 1, PageUp: at - 3 * across, PageDown: at + 3 * across };
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.key in steps) {
    event.preventDefault();
    // Up and down stop at the edge of the grid.
    const place = steps[event.key];
    if (!(grid && event.key.startsWith("Arrow") && (place < 0 || place >= order.length))) move(place, event.shiftKey);
  } else if (key in KEYS) {
    event.preventDefault();
    // A key held down answers only once.
    if (!event.repeat) DO[KEYS[key]]();
  }
}

// `refused` is the number of waiting answers that the server refused.
async function load(refused = 0) {
  const shown = data?.digest;
  data = await (await fetch("/suspects")).json();
  queue.splice(0, refused);
  if (data.digest !== shown) {
    // The numbers of the old list mean other suspects in this one.
    queue.length = 0;
    $("classes").close();
    $("sheet").replaceChildren();
    cells.clear();
  }
  answers = {};
  take(data);
  document.title = $("title").textContent = data.title;
  document.querySelector("[data-do=looks]").title = data.no_looks;
  const before = $("filter").value, place = at;
  pairs();
  $("filter").value = before;
  if ($("filter").value !== before) $("filter").value = "";
  filter();
  move(place);
}

document.addEventListener("keydown", pressed);
document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-do]");
  if (!button || !data) return;
  DO[button.dataset.do]();
  // Without this, the next press of the space bar would press the button again.
  if (event.detail) button.blur();
});
$("filter").addEventListener("change", () => { filter(); $("filter").blur(); });
$("many").addEventListener("scroll", () => requestAnimationFrame(drawMany));
window.addEventListener("resize", () => data && draw());
window.addEventListener("beforeunload", (event) => queue.length && event.preventDefault());
$("typed").addEventListener("input", complete);
$("typed").addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    picked = Math.max(0, Math.min(matches.length - 1, picked + (event.key === "ArrowDown" ? 1 : -1)));
    list();
  } else if (event.key === "Enter") {
    event.preventDefault();
    if (!event.isComposing) pick();
  }
});
$("copy").addEventListener("click", () => navigator.clipboard.writeText($("command").textContent));
load().then(() => { if (Object.values(answers).some(Boolean)) first(); }).catch(() => say("the server is gone; start the command again, and reload", true));
