"use strict";
// The review page. Everything from the data is put in as text, never as markup; nothing is fetched.
(() => {

// Small tools ---------------------------------------------------------------------------------

const $ = (id) => document.getElementById(id);
const narrow = matchMedia("(max-width: 860px)");
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const numbers = new Intl.NumberFormat("en");
const count = (n, one, many = one + "s") => `${numbers.format(n)} ${n === 1 ? one : many}`;
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** Make an element; properties that start with "aria-" or "data-" become attributes. */
function h(name, props = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(props)) {
    if (value === null || value === undefined) continue;
    if (key.includes("-") || key === "role") node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

const icon = (name) => svg("svg", { "aria-hidden": "true" }, svg("use", { href: `#i-${name}` }));

// The data ------------------------------------------------------------------------------------

const meta = JSON.parse($("meta").textContent);
const summary = meta.summary;
const jpegs = [...document.querySelectorAll("script.jpeg")];
const cards = [...document.querySelectorAll("script.row")].map((script, place) => ({
  row: JSON.parse(script.textContent),
  jpeg: jpegs[place],
  place,
  node: null,
  items: [],       // one per region: {region, index, li, box, tag}
  filled: false,
  drawn: false,
  shown: true,
  lit: null,
}));
for (const card of cards) {
  card.items = card.row.regions.map((region, index) => ({ card, region, index }));
  card.captions = card.items.filter((item) => item.region.number);
}
const allCaptions = cards.flatMap((card) => card.captions);
const byKey = new Map();
for (const card of cards) {
  for (const item of card.captions) {
    if (!byKey.has(item.region.key)) byKey.set(item.region.key, []);
    byKey.get(item.region.key).push(item);
  }
}
const statusWords = (status) => meta.statuses[status] ?? [status, "calm", ""];
const colour = (number) => `c${(number - 1) % meta.colours}`;
const rowName = (row) => (row.split === null ? "" : `${row.split} `) + `#${row.row}`;
const rowPath = (row) => (row.split === null ? "dataset" : `dataset["${row.split}"]`) + `[${row.row}]`;
const rowId = (row) => "row-" + (row.split === null ? "" : `${row.split}-`) + row.row;

// Decisions: what the person said of a caption, by the digest of what it is about -------------

const DECIDED = { accepted: "Accepted", edited: "Edited", rejected: "Rejected" };
const storageName = `hf_regioncap.review.${meta.digest}`;
let decisions = new Map();
const undoable = [];
let kept = true;        // whether this browser keeps the work
let unsaved = false;    // whether decisions changed since the last saved file

const isDecision = (key, made) => typeof key === "string" && Object.hasOwn(DECIDED, made?.status) &&
  (made.status !== "edited" || typeof made.text === "string");

function readStorage(text) {
  return new Map(JSON.parse(text ?? "[]").filter(([key, made]) => isDecision(key, made)));
}

try {
  decisions = readStorage(localStorage.getItem(storageName));
  localStorage.setItem(`${storageName}.probe`, "1");
  localStorage.removeItem(`${storageName}.probe`);
} catch {
  kept = false; // switched off, full, or holding something that is not ours
}

function keep() {
  if (!kept) return;
  try {
    localStorage.setItem(storageName, JSON.stringify([...decisions]));
  } catch {
    kept = false;
    tellNotes();
  }
}

const stateOf = ({ region }) => decisions.get(region.key)?.status ?? (region.caption === null ? "missing" : "open");

/** Text as it stands after review. */
function currentText(item) {
  const made = decisions.get(item.region.key);
  return made?.status === "edited" ? made.text : item.region.caption;
}

/** Set or (with null) take back decisions, as one step that undo takes back. */
function decide(changes) {
  const before = changes.map(([key]) => [key, decisions.get(key) ?? null]);
  undoable.push(before);
  setDecisions(changes);
}

function setDecisions(changes) {
  for (const [key, made] of changes) made === null ? decisions.delete(key) : decisions.set(key, made);
  unsaved = true;
  keep();
  refresh(changes.map(([key]) => key));
}

function undo() {
  const before = undoable.pop();
  if (!before) return announce("Nothing to undo.");
  setDecisions(before);
  const item = byKey.get(before[0][0])?.[0];
  if (item && before.length === 1) activate(item, { focus: true });
  toast(before.length === 1 ? "Undone." : `Undone: ${count(before.length, "caption")}.`, false);
}

/** Redraw what belongs to these keys, and the counts. */
function refresh(keys) {
  const touched = new Set();
  for (const key of keys) {
    for (const item of byKey.get(key) ?? []) {
      if (item.li) drawCaption(item);
      touched.add(item.card);
    }
  }
  touched.forEach(drawRest);
  drawProgress();
}

function judge(item, status) {
  if (item.region.caption === null && status !== "edited") {
    return announce("There is no caption here. Press E to write one.");
  }
  const same = stateOf(item) === status;
  decide([[item.region.key, same ? null : { status }]]);
  announce(same ? "Decision taken back." : `${DECIDED[status]}.`);
}

/** Accept what is left open in a row. */
function acceptRest(card) {
  const open = openCaptions(card);
  if (!open.length) return announce("Nothing is open in this row.");
  decide(open.map((item) => [item.region.key, { status: "accepted" }]));
  toast(`Accepted ${count(open.length, "caption")} of ${rowName(card.row)}.`, true);
}

const isOpen = (item) => stateOf(item) === "open";
const openCaptions = (card) => card.captions.filter(isOpen);

// Words to the person -------------------------------------------------------------------------

let toastTimer = 0;

function announce(words) {
  // An emptied region first, so that the same words twice are read twice.
  $("live").textContent = "";
  requestAnimationFrame(() => { $("live").textContent = words; });
}

function toast(words, canUndo) {
  announce(words);
  $("toast-words").textContent = words;
  $("toast-undo").hidden = !canUndo;
  $("toast").hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { $("toast").hidden = true; }, 5000);
}

// One row -------------------------------------------------------------------------------------

function buildShell(card) {
  const { row } = card;
  const [words] = statusWords(row.status);
  card.node = h("article", {
    className: row.image ? "card" : "card bare",
    id: rowId(row),
    "aria-label": `Row ${rowName(row)}, ${words}, ${count(card.captions.length, "region")}`,
  });
  card.node.card = card;
  card.node.style.containIntrinsicHeight = `auto ${guessHeight(card)}px`;
  return card.node;
}

/** What the row will be high, so that the scroll bar is honest before it is drawn. */
function guessHeight(card) {
  const { row } = card;
  const width = narrow.matches ? innerWidth : Math.min(innerWidth - 380, 1380) * 0.58;
  const most = narrow.matches ? innerHeight * 0.44 : Math.min(innerHeight - 104, 700);
  const photo = row.image ? Math.min((width * row.image.h) / row.image.w, most, row.image.h * 3) + 20 : 60;
  const perLine = narrow.matches ? 44 : 58;
  const lines = card.captions.map(({ region }) => Math.min(Math.ceil((region.caption ?? "").length / perLine), 7));
  const text = 96 + lines.reduce((sum, n) => sum + 47 + 24 * n, 0);
  return Math.round(narrow.matches ? photo + text : Math.max(photo, text));
}

/** Put in the row's text; idle time does this for every row, so that the browser's search finds it. */
function fill(card) {
  if (card.filled) return;
  card.filled = true;
  const { row } = card;
  const stage = h("div", { className: "stage" });
  if (row.image) stage.append(buildMat(card));
  const side = h("div", { className: "side-text" }, buildHead(card), buildReason(card));
  if (card.captions.length) {
    const list = h("ol", { "aria-label": "Captions", role: "list" }, ...card.captions.map(buildCaption));
    card.captions[0].li.tabIndex = 0;
    side.append(list);
  }
  side.append(buildSpares(card), buildMore(card));
  card.node.append(...(row.image ? [stage] : []), side);
  drawRest(card);
}

function buildHead(card) {
  const { row } = card;
  const [words, tone, meaning] = statusWords(row.status);
  card.rest = h("button", { className: "button rest", type: "button", title: "Accept what is open in this row (Shift A)" });
  card.rest.dataset.act = "rest";
  return h("div", { className: "card-head" },
    h("h2", { title: rowPath(row) }, rowName(row)),
    row.status === "ok" ? null : h("span", { className: `pill t-${tone}`, title: meaning }, words),
    row.proposed && card.captions.length ? h("span", { className: "pill t-calm", title: "The row had no boxes of its own" }, "Proposed boxes") : null,
    row.name === null ? null : h("span", { className: "file", title: row.name }, h("bdi", {}, row.name)),
    card.rest,
  );
}

function buildReason(card) {
  const { row } = card;
  const [, tone, meaning] = statusWords(row.status);
  if (row.status === "ok" || (row.status === "not_asked" && !row.reason)) return "";
  if (!row.reason && row.status === "no_boxes") return "";
  return h("p", { className: `reason t-${tone}`, dir: "auto" }, row.reason ?? meaning);
}

function buildMat(card) {
  const { image } = card.row;
  const frame = h("div", { className: "frame", tabIndex: card.captions.length ? 0 : -1, role: "group" });
  frame.setAttribute("aria-label", `Photo ${rowName(card.row)} with ${count(card.captions.length, "box", "boxes")}; arrow keys go through them`);
  frame.style.setProperty("--ratio", image.w / image.h);
  frame.style.setProperty("--w", `${image.w}px`);
  frame.style.backgroundColor = image.colour;
  card.frame = frame;
  return h("div", { className: "mat" }, frame);
}

function buildCaption(item) {
  const { region } = item;
  item.li = h("li", { className: `cap ${colour(region.number)}`, tabIndex: -1 });
  item.li.item = item;
  drawCaption(item);
  return item.li;
}

function drawCaption(item) {
  const { region, li } = item;
  const state = stateOf(item);
  const focused = li.contains(document.activeElement) ? document.activeElement.dataset.act ?? "li" : null;
  li.classList.toggle("rejected", state === "rejected");
  li.classList.toggle("plain", region.label === null && !region.note && DECIDED[state] === undefined);
  const text = currentText(item);
  const long = text !== null && text.length > 460;
  const body = h("p", { className: "text" + (text === null ? " none" : "") + (long && !item.open ? " clamp" : ""), dir: "auto" },
    text ?? "No caption came back");
  const parts = [
    h("span", { className: "chip" }, h("span", { className: "vh" }, "Region "), String(region.number)),
    h("div", { className: "meta" },
      region.label === null ? null : h("span", { className: "label", title: region.label, dir: "auto" }, region.label),
      region.note ? h("span", { className: "note-word" }, region.note) : null,
      DECIDED[state] === undefined ? null : h("span", { className: `state s-${state}` }, DECIDED[state]),
      h("div", { className: "acts" },
        region.caption === null ? null : actButton("accept", "accepted", "Accept", "A", state),
        actButton("edit", "edited", region.caption === null ? "Write a caption" : "Edit", "E", state),
        region.caption === null ? null : actButton("reject", "rejected", "Reject", "R", state))),
    body,
  ];
  if (long) {
    const more = h("button", { className: "link", type: "button", "aria-expanded": String(Boolean(item.open)) }, item.open ? "Show less" : "Show all");
    more.dataset.act = "open";
    parts.push(more);
  }
  if (state === "edited" && region.caption !== null) {
    parts.push(h("p", { className: "was", dir: "auto" }, `Was: ${region.caption}`));
  }
  li.replaceChildren(...parts);
  item.text = body;
  markFound(item);
  rove(item);
  if (focused) (li.querySelector(`[data-act="${focused}"]`) ?? li).focus({ preventScroll: true });
}

function actButton(act, status, words, key, state) {
  const button = h("button", { type: "button", tabIndex: -1, className: `s-${status}`, title: `${words} (${key})`,
    "aria-label": words, "aria-pressed": String(state === status) }, icon(act));
  button.dataset.act = act;
  return button;
}

/** Only the chosen caption's buttons are on the tab order; elsewhere one stop per row. */
function rove(item) {
  const here = active === item;
  for (const button of item.li.querySelectorAll(".acts button")) button.tabIndex = here ? 0 : -1;
}

function drawRest(card) {
  if (!card.rest) return;
  const open = openCaptions(card).length;
  card.rest.hidden = card.captions.every((item) => stateOf(item) === "missing");
  card.rest.disabled = open === 0;
  card.rest.textContent = open === 0 ? "Reviewed" : open === card.captions.length ? "Accept all" : `Accept ${open} left`;
}

function buildSpares(card) {
  const spares = card.items.filter((item) => !item.region.number);
  if (!spares.length) return "";
  return h("ul", { className: "spares", "aria-label": "Boxes that were not used" }, ...spares.map((item) => {
    const { region } = item;
    item.li = h("li", {}, `Box ${item.index + 1} not used: ${region.note || "unknown"}`, region.label === null ? "" : h("bdi", {}, ` · ${region.label}`));
    item.li.item = item;
    return item.li;
  }));
}

function buildMore(card) {
  const { row } = card;
  const parts = [["Prompt", row.prompt], ["Answer as received", row.answer]].filter(([, text]) => text !== null);
  if (!parts.length) return "";
  const tokens = row.usage ? ` · ${numbers.format(row.usage[0])} + ${count(row.usage[1], "token")}` : "";
  const names = parts.map(([name]) => name).join(" and ").replace(" as received", "").replace("and Answer", "and answer");
  const more = h("details", { className: "more" }, h("summary", {}, names + tokens));
  more.addEventListener("toggle", () => {
    if (more.childElementCount > 1) return;
    for (const [name, text] of parts) more.append(h("h3", {}, name), h("pre", { dir: "auto", tabIndex: 0 }, text));
  });
  return more;
}

// The photo and its boxes ---------------------------------------------------------------------

/** Draw photo and boxes when the row comes near the screen. */
function draw(card) {
  fill(card);
  if (!card.row.image) return;
  if (!card.drawn) {
    card.drawn = true;
    buildBoxes(card);
  }
  if (!card.photo.hasAttribute("src")) card.photo.src = `data:image/jpeg;base64,${card.jpeg.textContent}`;
}

/** Give a far-away photo's memory back; its text and boxes stay. */
function release(card) {
  if (card.drawn && card !== active?.card) card.photo.removeAttribute("src");
}

function buildBoxes(card) {
  const { image } = card.row;
  card.photo = h("img", { alt: card.row.name ? `Photo ${card.row.name}` : `Photo of row ${rowName(card.row)}`, decoding: "async", draggable: false });
  card.shade = svg("path", { class: "shade" });
  card.shapes = svg("svg", { viewBox: `0 0 ${image.w} ${image.h}`, preserveAspectRatio: "none", "aria-hidden": "true" }, card.shade);
  card.view = [0, 0, image.w, image.h];
  const placed = card.items.filter((item) => item.region.box);
  // Large boxes first, so that a small one lies on top of what surrounds it.
  for (const item of [...placed].sort((a, b) => area(b) - area(a))) {
    const [x, y, width, height] = item.region.box;
    const rect = (name) => svg("rect", { class: name, x, y, width, height });
    item.box = svg("g", { class: item.region.number ? `box ${colour(item.region.number)}` : "box spare" }, rect("casing"), rect("line"));
    card.shapes.append(item.box);
  }
  const tags = h("div", { "aria-hidden": "true" });
  for (const item of placed.filter((one) => one.region.number)) {
    item.tag = h("span", { className: `tag ${colour(item.region.number)}` }, String(item.region.number));
    tags.append(item.tag);
  }
  card.frame.append(card.photo, card.shapes, tags);
  if (placed.length) {
    const zoom = h("button", { className: "zoom", type: "button", title: "Look closer (Z)", "aria-label": "Look closer at the chosen region", "aria-pressed": "false" }, icon("zoom"));
    zoom.dataset.act = "zoom";
    card.zoom = zoom;
    card.frame.parentElement.append(zoom);
  }
  sizes.observe(card.frame);
}

const area = (item) => item.region.box[2] * item.region.box[3];

const sizes = new ResizeObserver((entries) => {
  for (const { target } of entries) placeTags(target.closest("article").card);
});

/** Put each number where it covers no other: outside of small boxes, inside of large ones. */
function placeTags(card) {
  const width = card.frame.clientWidth;
  const height = card.frame.clientHeight;
  if (!width) return;
  const [left, top, wide, high] = card.view;
  const taken = [];
  const tagged = card.items.filter((item) => item.tag).sort((a, b) => area(a) - area(b));
  for (const item of tagged) {
    const [x, y, w, t] = item.region.box;
    const box = { x: ((x - left) / wide) * width, y: ((y - top) / high) * height, w: (w / wide) * width, h: (t / high) * height };
    const size = { w: item.region.number > 9 ? 25 : 19, h: 19 };
    item.tag.hidden = box.x + box.w < 0 || box.y + box.h < 0 || box.x > width || box.y > height;
    if (item.tag.hidden) continue;
    const spot = bestSpot(box, size, { width, height }, taken);
    taken.push({ ...spot, ...size });
    item.tag.style.transform = `translate(${Math.round(spot.x)}px, ${Math.round(spot.y)}px)`;
  }
}

function bestSpot(box, size, frame, taken) {
  const inside = [
    [box.x, box.y], [box.x + box.w - size.w, box.y],
    [box.x, box.y + box.h - size.h], [box.x + box.w - size.w, box.y + box.h - size.h],
  ];
  const outside = [
    [box.x, box.y - size.h], [box.x + box.w - size.w, box.y - size.h], [box.x, box.y + box.h],
    [box.x - size.w, box.y], [box.x + box.w, box.y],
  ];
  const roomy = box.w > 3 * size.w && box.h > 3 * size.h;
  const spots = (roomy ? [...inside, ...outside] : [...outside, ...inside]).map(([x, y]) => ({
    x: clamp(x, 0, Math.max(0, frame.width - size.w)),
    y: clamp(y, 0, Math.max(0, frame.height - size.h)),
    off: Math.abs(x - clamp(x, 0, frame.width - size.w)) + Math.abs(y - clamp(y, 0, frame.height - size.h)),
  }));
  const cost = (spot) => spot.off + taken.reduce((sum, other) => sum + 10 * overlap(spot, size, other), 0);
  return spots.reduce((best, spot) => (cost(spot) < cost(best) - 0.5 ? spot : best));
}

const overlap = (spot, size, other) =>
  Math.max(0, Math.min(spot.x + size.w, other.x + other.w) - Math.max(spot.x, other.x)) *
  Math.max(0, Math.min(spot.y + size.h, other.y + other.h) - Math.max(spot.y, other.y));

/** Regions at a point of the screen, the smallest first: a box inside a box can be reached. */
function regionsAt(card, clientX, clientY, tolerance) {
  const bounds = card.frame.getBoundingClientRect();
  const [left, top, wide, high] = card.view;
  const x = left + ((clientX - bounds.left) / bounds.width) * wide;
  const y = top + ((clientY - bounds.top) / bounds.height) * high;
  const dx = (tolerance / bounds.width) * wide;
  const dy = (tolerance / bounds.height) * high;
  return card.items
    .filter(({ region: { box } }) => box && x >= box[0] - dx && x <= box[0] + box[2] + dx && y >= box[1] - dy && y <= box[1] + box[3] + dy)
    .sort((a, b) => area(a) - area(b));
}

/** Light one region's box, number and caption together, or none. */
function light(card, item) {
  if (card.lit === item) return;
  for (const [one, on] of [[card.lit, false], [item, true]]) {
    if (!one) continue;
    for (const part of [one.li, one.box, one.tag]) part?.classList.toggle("on", on);
  }
  card.lit = item;
  card.frame?.classList.toggle("lit", Boolean(item?.box));
  if (item?.box) {
    const { w, h: high } = card.row.image;
    const [x, y, width, height] = item.region.box;
    card.shade.setAttribute("d", `M0 0H${w}V${high}H0ZM${x} ${y}h${width}v${height}h${-width}Z`);
  }
}

let zooming = false;

/** Show the chosen region close up where zooming is on, and every other photo whole. */
function look(card) {
  if (!card?.drawn) return;
  const { image } = card.row;
  const item = zooming && active?.card === card ? active : null;
  card.zoom?.setAttribute("aria-pressed", String(Boolean(item)));
  glide(card, item?.region.box ? closeUp(item.region.box, image) : [0, 0, image.w, image.h]);
}

/** A view of the photo's shape around a box, with room around it. */
function closeUp([x, y, width, height], image) {
  const scale = clamp(Math.max(width / image.w, height / image.h) * 1.7, 0.08, 1);
  const [w, t] = [image.w * scale, image.h * scale];
  return [clamp(x + width / 2 - w / 2, 0, image.w - w), clamp(y + height / 2 - t / 2, 0, image.h - t), w, t];
}

function glide(card, target) {
  const from = card.view;
  const start = performance.now();
  const time = calm.matches ? 0 : 190;
  card.target = target;
  const step = (now) => {
    if (card.target !== target) return;
    const t = time ? clamp((now - start) / time, 0, 1) : 1;
    const eased = 1 - (1 - t) ** 3;
    setView(card, from.map((value, i) => value + (target[i] - value) * eased));
    if (t < 1) requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}

function setView(card, view) {
  card.view = view;
  const { w, h: high } = card.row.image;
  const scale = w / view[2];
  card.shapes.setAttribute("viewBox", view.join(" "));
  card.photo.style.transform = `scale(${scale}) translate(${(-100 * view[0]) / w}%, ${(-100 * view[1]) / high}%)`;
  placeTags(card);
}

// Choosing a caption --------------------------------------------------------------------------

let active = null;

function activate(item, { focus = false, scroll = true } = {}) {
  const before = active;
  active = item;
  if (before && before !== item) leave(before);
  if (!item) return;
  passing = null;
  draw(item.card);
  for (const other of item.card.captions) other.li.tabIndex = other === item ? 0 : -1;
  item.li.classList.add("here");
  item.li.setAttribute("aria-current", "true");
  rove(item);
  light(item.card, item);
  look(item.card);
  if (focus) item.li.focus({ preventScroll: true });
  if (scroll) {
    reveal(item);
    // Rows that come into sight get their true height only now.
    requestAnimationFrame(() => active === item && reveal(item));
  }
}

function leave(item) {
  item.li?.classList.remove("here");
  item.li?.removeAttribute("aria-current");
  if (item.li) rove(item);
  if (item.card !== active?.card) {
    light(item.card, null);
    look(item.card);
  }
}

/** Scroll no further than needed for the caption, and its photo above it on a phone. */
function reveal(item) {
  const { card } = item;
  const rect = item.li.getBoundingClientRect();
  const bar = document.querySelector(".bar").offsetHeight;
  const photo = narrow.matches && card.frame ? card.frame.closest(".stage").offsetHeight : 0;
  const top = bar + photo + 10;
  const bottom = innerHeight - (narrow.matches ? 84 : 24);
  const first = item === card.captions[0] && card.node.getBoundingClientRect().top;
  if (first !== false && (first < bar || rect.bottom > bottom)) scrollBy(0, first - bar - 8);
  else if (rect.top < top) scrollBy(0, rect.top - top);
  else if (rect.bottom > bottom) scrollBy(0, Math.min(rect.bottom - bottom, rect.top - top));
}

const visible = () => cards.filter((card) => card.shown);

/** The row that is at the top of the screen. */
function rowInSight() {
  const bar = document.querySelector(".bar").offsetHeight;
  return visible().find((card) => card.node.getBoundingClientRect().bottom > bar + 80) ?? visible()[0];
}

/** Go to the next (or previous) caption that passes `test`, over the borders of rows. */
function step(by, test = () => true) {
  const items = visible().flatMap((card) => card.captions);
  let place = active?.card.shown ? items.indexOf(active) : -1;
  if (place < 0) {
    const from = rowInSight();
    place = items.findIndex((item) => item.card.place >= (from?.place ?? 0)) - (by > 0 ? 1 : 0);
    if (by < 0) place += 1;
  }
  for (let next = place + by; next >= 0 && next < items.length; next += by) {
    if (test(items[next])) {
      activate(items[next], { focus: true });
      return items[next];
    }
  }
  return null;
}

let passing = null; // a row without captions that the keys have come to

function stepRow(by) {
  const shown = visible();
  const here = active?.card ?? passing;
  const target = here?.shown ? shown[shown.indexOf(here) + by] : rowInSight();
  if (!target) return;
  if (target.captions.length) return activate(target.captions[0], { focus: true });
  activate(null);
  passing = target;
  draw(target);
  target.node.tabIndex = -1;
  target.node.focus({ preventScroll: true });
  target.node.scrollIntoView({ block: "start" });
}

/** Judge by key: the next open caption comes by itself. */
function judgeByKey(status) {
  if (!active) {
    step(1);
    return announce("Now press the key again to decide this caption.");
  }
  const item = active;
  const opened = stateOf(item) !== status;
  judge(item, status);
  if (opened && stateOf(item) === status) nextOpen();
}

function nextOpen() {
  if (!step(1, isOpen)) {
    toast(openLeft() ? "No open caption below. Some are left above." : "Every caption here is reviewed.", false);
  }
}

const openLeft = () => cards.reduce((sum, card) => sum + openCaptions(card).length, 0);

// Editing -------------------------------------------------------------------------------------

function edit(item) {
  activate(item, { scroll: true });
  if (item.li.querySelector("textarea")) return;
  const area = h("textarea", { value: currentText(item) ?? "", rows: 3, dir: "auto", spellcheck: true });
  area.setAttribute("aria-label", `Caption of region ${item.region.number}`);
  const problem = h("p", { className: "problem", role: "alert", hidden: true }, "Write a caption, or reject it.");
  const done = h("button", { className: "button primary", type: "button" }, "Save caption");
  const cancel = h("button", { className: "button", type: "button" }, "Cancel");
  const close = () => {
    item.li.replaceChildren();
    drawCaption(item);
    item.li.focus({ preventScroll: true });
  };
  const save = (andOn) => {
    const text = area.value.trim();
    problem.hidden = Boolean(text);
    if (!text) return area.focus();
    const made = text === item.region.caption ? { status: "accepted" } : { status: "edited", text };
    close();
    decide([[item.region.key, made]]);
    announce(`${DECIDED[made.status]}.`);
    if (andOn) nextOpen();
  };
  done.addEventListener("click", () => save(false));
  cancel.addEventListener("click", close);
  area.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.isComposing) return;
    if (event.key === "Escape") close();
    else if (event.key === "Enter" && !event.shiftKey) save(true);
    else return;
    event.preventDefault();
  });
  const chip = item.li.querySelector(".chip");
  item.li.replaceChildren(chip, h("div", { className: "editor" }, area, problem,
    h("div", { className: "row-buttons" }, done, cancel, h("span", { className: "hint" }, "Enter saves, Esc cancels"))));
  area.focus({ preventScroll: true });
  area.setSelectionRange(area.value.length, area.value.length);
  reveal(item);
}

// Filters -------------------------------------------------------------------------------------

const filters = { status: new Set(), label: new Set(), review: new Set(), text: "" };

const fold = (text) => (text ?? "").toLocaleLowerCase();

function rowMatches(card) {
  const { row } = card;
  if (filters.status.size && !filters.status.has(row.status)) return false;
  const inRow = !filters.text || fold([row.name, row.reason, row.answer, rowName(row)].join("\n")).includes(filters.text);
  if (!filters.label.size && !filters.review.size) return inRow || card.items.some(textMatches);
  return card.captions.some((item) =>
    (!filters.label.size || filters.label.has(item.region.label)) &&
    (!filters.review.size || filters.review.has(stateOf(item))) &&
    (inRow || textMatches(item)));
}

const textMatches = (item) =>
  fold([item.region.label, item.region.caption, currentText(item)].join("\n")).includes(filters.text);

function applyFilters() {
  let rows = 0;
  let captions = 0;
  for (const card of cards) {
    card.shown = rowMatches(card);
    card.node.hidden = !card.shown;
    rows += card.shown;
    captions += card.shown ? card.captions.length : 0;
  }
  if (active && !active.card.shown) activate(null);
  const on = filters.status.size + filters.label.size + filters.review.size + Boolean(filters.text);
  $("count").textContent = on ? `${numbers.format(rows)} of ${count(cards.length, "row")}` : count(cards.length, "row");
  $("reset").hidden = !on;
  $("empty").hidden = rows > 0 || !cards.length;
  $("panel-open").setAttribute("aria-label", on ? `Summary and filters, ${on} set` : "Summary and filters");
  $("panel-close").textContent = on ? `Show ${count(rows, "row")}` : "Done";
  markAllFound();
  drawFacets();
  return rows;
}

function filtered() {
  const rows = applyFilters();
  announce(`${count(rows, "row")} shown.`);
  if (scrollY > document.querySelector(".main").offsetTop) scrollTo(0, document.querySelector(".main").offsetTop);
}

function clearFilters() {
  for (const name of ["status", "label", "review"]) filters[name].clear();
  filters.text = $("query").value = "";
  filtered();
}

// The browser's own highlights mark what was found, without touching the text.
const found = window.Highlight && CSS.highlights ? new Highlight() : null;
if (found) CSS.highlights.set("found", found);

function markAllFound() {
  if (!found) return;
  found.clear();
  if (filters.text) cards.forEach((card) => card.shown && card.captions.forEach(markFound));
}

function markFound(item) {
  const node = item.text?.firstChild;
  if (!found || !filters.text || !node) return;
  const text = fold(node.data);
  if (text.length !== node.data.length) return; // folding has moved the letters
  for (let at = text.indexOf(filters.text); at >= 0; at = text.indexOf(filters.text, at + filters.text.length)) {
    const range = new Range();
    range.setStart(node, at);
    range.setEnd(node, at + filters.text.length);
    found.add(range);
  }
}

// Facets, figures, charts ---------------------------------------------------------------------

const tally = (values) => {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return counts;
};

const REVIEW_WORDS = [["open", "Not reviewed", ""], ["accepted", "Accepted", "s-accepted"], ["edited", "Edited", "s-edited"], ["rejected", "Rejected", "s-rejected"], ["missing", "Without a caption", ""]];
const rowsByStatus = tally(cards.map((card) => card.row.status));
const regionsByLabel = tally(allCaptions.map((item) => item.region.label).filter((label) => label !== null));
const LABELS_AT_FIRST = 8;
let allLabels = false;

function drawReviewFacet() {
  const states = tally(allCaptions.map(stateOf));
  const entries = REVIEW_WORDS.map(([value, words, tone]) => [value, words, tone, states.get(value) ?? 0]);
  facet("review", entries.filter(([value, , , n]) => n || value !== "missing"));
}

function drawFacets() {
  drawReviewFacet();
  const total = new Map(summary.statuses);
  facet("status", [...rowsByStatus].sort((a, b) => b[1] - a[1]).map(([value, n]) =>
    [value, statusWords(value)[0], `t-${statusWords(value)[1]}`, n, total.get(value)]));
  const labels = [...regionsByLabel].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
  const first = labels.filter(([label], i) => allLabels || i < LABELS_AT_FIRST || filters.label.has(label));
  facet("label", first.map(([label, n]) => [label, label, "", n]));
  $("labels-block").hidden = !labels.length;
  $("labels-more").hidden = labels.length <= LABELS_AT_FIRST;
  $("labels-more").textContent = allLabels ? "Show fewer" : `Show all ${labels.length}`;
  $("labels-more").setAttribute("aria-expanded", String(allLabels));
}

/** Draw one group of bars; each is a button that filters. Buttons stay, so that focus does. */
function facet(name, entries) {
  const box = $(`facet-${name}`);
  const most = Math.max(1, ...entries.map((entry) => entry[3]));
  const there = new Map([...box.children].map((button) => [button.value, button]));
  const buttons = entries.map(([value, words, tone, n, all]) => {
    const button = there.get(value) ?? h("button", { type: "button", value, title: words },
      h("span", { className: "name", dir: "auto" }, words), h("span", { className: "n" }), h("span", { className: "track" }, h("i", { className: tone })));
    button.setAttribute("aria-pressed", String(filters[name].has(value)));
    button.children[1].textContent = numbers.format(n) + (all > n ? ` of ${numbers.format(all)}` : "");
    button.children[2].firstChild.style.width = `${(100 * n) / most}%`;
    return button;
  });
  if (buttons.some((button, i) => box.children[i] !== button) || box.children.length !== buttons.length) box.replaceChildren(...buttons);
}

function drawProgress() {
  const items = allCaptions.filter((item) => stateOf(item) !== "missing");
  const states = tally(items.map(stateOf));
  const done = items.length - (states.get("open") ?? 0);
  const elsewhere = [...decisions.keys()].filter((key) => !byKey.has(key)).length;
  const page = meta.pages.length > 1 ? " of this page" : "";
  $("done").textContent = $("dock-done").textContent = numbers.format(done);
  $("of").textContent = `of ${count(items.length, "caption")}${page} reviewed` + (elsewhere ? `, ${numbers.format(elsewhere)} on other pages` : "");
  $("dock-of").textContent = `of ${numbers.format(items.length)} reviewed`;
  $("progress").setAttribute("aria-valuemax", items.length);
  $("progress").setAttribute("aria-valuenow", done);
  for (const stack of [$("progress"), $("dock-progress")]) {
    for (const part of stack.children) part.style.width = `${(100 * (states.get(part.className.slice(2)) ?? 0)) / Math.max(1, items.length)}%`;
  }
  $("undo").disabled = !undoable.length;
  $("clear").disabled = !decisions.size;
  for (const button of [$("save"), $("dock-save")]) {
    button.disabled = !decisions.size;
    button.classList.toggle("fresh", unsaved && decisions.size > 0);
    button.title = unsaved ? "Save the review to a file (S); there are changes" : "Save the review to a file (S)";
  }
  $("review").hidden = !items.length && !decisions.size;
  document.querySelector(".dock").hidden = !items.length;
  drawReviewFacet();
}

function tellFacts() {
  const facts = [count(summary.rows, "row")];
  if (summary.regions) facts.push(count(summary.regions, "region"));
  if (summary.regions) facts.push(count(summary.captions, "caption"));
  $("facts").textContent = facts.join(" · ") + (meta.model ? ` · by ${meta.model}` : "");
}

function tellNotes() {
  const notes = [];
  if (meta.offline) notes.push(["No model saw these photos.", "The captions come from the built-in offline-describer: colours, light and places that it measured."]);
  if (summary.rows && summary.unboxed === summary.rows) notes.push(["No boxes yet.", "The rows have no column region_boxes: run add_boxes or add_region_captions first."]);
  else if (summary.regions && !summary.captions) notes.push(["No captions yet.", "The boxes are there; run add_region_captions to have them described."]);
  if (!kept) notes.push(["Your work is not kept.", "This browser gives the page no storage: save the review to a file before you close it."]);
  $("notes").replaceChildren(...notes.map(([head, words]) => h("p", { className: "note" }, h("b", {}, head), ` ${words}`)));
}

function drawCharts() {
  const charts = [];
  if (summary.lengths.length) {
    charts.push(chart("Caption length", `median ${numbers.format(summary.length_median)}`, summary.lengths, "character", "caption"));
  }
  if (summary.regions) charts.push(chart("Regions per image", "", summary.per_image, "region", "image"));
  if (summary.tokens || meta.cost !== null) charts.push(figures());
  $("charts").replaceChildren(...charts);
}

function chart(title, aside, bins, unit, of) {
  const most = Math.max(...bins.map((bin) => bin[2]));
  const step = 260 / bins.length;
  const gap = bins.length > 14 ? 1 : 2;
  const range = ([low, high]) => (low === high ? count(low, unit) : `${numbers.format(low)} to ${count(high, unit)}`);
  const drawing = svg("svg", { viewBox: "0 0 260 58", preserveAspectRatio: "none", role: "img",
    "aria-label": `${title}: ` + bins.filter((bin) => bin[2]).map((bin) => `${range(bin)}: ${count(bin[2], of)}`).join("; ") });
  bins.forEach((bin, i) => {
    const height = bin[2] ? Math.max(2, (54 * bin[2]) / most) : 0;
    const bar = svg("rect", { x: i * step, y: 56 - height, width: Math.max(1, step - gap), height, rx: 1 }, svg("title"));
    bar.firstChild.textContent = `${range(bin)}: ${count(bin[2], of)}`;
    drawing.append(bar);
  });
  drawing.append(svg("rect", { class: "base", x: 0, y: 57, width: 260, height: 1 }));
  const last = bins[bins.length - 1];
  const tail = bins.length > 1 && last[1] - last[0] > bins[0][1] - bins[0][0];
  return h("div", { className: "chart" }, h("h2", {}, title, h("span", {}, aside)), drawing,
    h("div", { className: "axis", "aria-hidden": "true" }, h("span", {}, numbers.format(bins[0][0])), h("span", {}, tail ? `${numbers.format(last[0])}+` : numbers.format(last[1]))));
}

function figures() {
  const list = h("dl", { className: "figures" });
  const tell = (words, value) => list.append(h("dt", {}, words), h("dd", {}, value));
  if (summary.tokens) {
    const [asked, answered] = summary.tokens;
    tell("Prompt tokens", numbers.format(asked));
    tell("Completion tokens", numbers.format(answered));
    tell("Per row", numbers.format(Math.round((asked + answered) / summary.metered)));
  }
  if (meta.cost !== null) {
    const dollars = new Intl.NumberFormat("en", { style: "currency", currency: "USD", maximumFractionDigits: meta.cost < 1 ? 4 : 2 });
    tell("Cost", dollars.format(meta.cost));
  }
  return h("div", { className: "chart" }, h("h2", {}, meta.cost === null ? "Tokens" : summary.tokens ? "Tokens and cost" : "Cost"), list);
}

function tellRecipe() {
  if (!meta.recipe.length) return;
  const list = h("dl");
  for (const [key, value] of meta.recipe) list.append(h("dt", {}, key), h("dd", { dir: "auto" }, value));
  $("made").append(h("details", {}, h("summary", {}, "How these were made"), list));
}

function drawPages() {
  if (meta.pages.length < 2) return;
  $("pages").hidden = false;
  const link = (place, words, label) => {
    const a = h("a", { href: meta.pages[place].href, "aria-label": label }, words);
    if (place === meta.page) a.setAttribute("aria-current", "page");
    return a;
  };
  const links = meta.pages.map((page, place) => link(place, String(place + 1), `Page ${place + 1}, ${count(page.rows, "row")}`));
  if (meta.page > 0) links.unshift(link(meta.page - 1, "‹ Previous", "Previous page"));
  if (meta.page < meta.pages.length - 1) links.push(link(meta.page + 1, "Next ›", "Next page"));
  $("pages").append(...links);
  $("notes").before(h("nav", { className: "pages-head", "aria-label": "Pages, at the top" },
    meta.page > 0 ? link(meta.page - 1, "‹", "Previous page") : null,
    h("span", {}, `Page ${meta.page + 1} of ${meta.pages.length}`),
    meta.page < meta.pages.length - 1 ? link(meta.page + 1, "›", "Next page") : null));
}

// The review as a file ------------------------------------------------------------------------

function reviewFile() {
  const regions = [...decisions].map(([key, made]) => {
    const item = byKey.get(key)?.[0];
    const entry = { region: key, status: made.status };
    if (made.status === "edited") entry.text = made.text;
    if (item) {
      Object.assign(entry, { row: item.card.row.row, box: item.index, caption: item.region.caption });
      if (item.card.row.split !== null) entry.split = item.card.row.split;
    }
    return entry;
  });
  return {
    format: "hf_regioncap review", version: 1, title: meta.title, dataset: meta.digest,
    image_column: meta.image_column, saved_at: new Date().toISOString(), regions,
  };
}

function save() {
  if (!decisions.size) return announce("Nothing has been reviewed yet.");
  const blob = new Blob([JSON.stringify(reviewFile(), null, 1)], { type: "application/json" });
  const link = h("a", { href: URL.createObjectURL(blob), download: `${meta.stem}.review.json` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  unsaved = false;
  drawProgress();
  toast(`Saved ${count(decisions.size, "decision")}. apply_review turns the file into columns.`, false);
}

async function load(file) {
  let regions;
  try {
    const content = JSON.parse(await file.text());
    if (content.format !== "hf_regioncap review" || content.version !== 1) throw new Error("another format");
    regions = content.regions.filter((entry) => isDecision(entry.region, entry));
  } catch {
    return toast("That is not a review file of this page.", false);
  }
  const changes = regions.map(({ region, status, text }) => [region, status === "edited" ? { status, text } : { status }]);
  if (!changes.length) return toast("The file holds no decision.", false);
  decide(changes);
  const strange = changes.filter(([key]) => !byKey.has(key)).length;
  const where = meta.pages.length > 1 ? "are not on this page" : "are about captions that are not here";
  toast(`Loaded ${count(changes.length, "decision")}` + (strange ? `; ${numbers.format(strange)} ${where}.` : "."), true);
}

function clearReview() {
  const changes = [...decisions.keys()].map((key) => [key, null]);
  if (!changes.length) return;
  decide(changes);
  toast(`Cleared ${count(changes.length, "decision")}.`, true);
}

// Look, help, panel ---------------------------------------------------------------------------

const THEMES = { "": "system", light: "light", dark: "dark" };

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  $("theme").setAttribute("aria-label", `Theme: ${THEMES[theme]}`);
  try {
    theme ? localStorage.setItem("hf_regioncap.theme", theme) : localStorage.removeItem("hf_regioncap.theme");
  } catch { /* without storage the choice lasts as long as the page */ }
}

function nextTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const order = ["", dark ? "light" : "dark", dark ? "dark" : "light"];
  const now = document.documentElement.dataset.theme ?? "";
  setTheme(order[(order.indexOf(now) + 1) % 3]);
  announce(`Theme: ${THEMES[document.documentElement.dataset.theme ?? ""]}.`);
}

function toggleBoxes() {
  const off = document.documentElement.classList.toggle("no-boxes");
  $("boxes").setAttribute("aria-pressed", String(!off));
  announce(off ? "Boxes hidden." : "Boxes shown.");
}

function toggleZoom(card) {
  if (card && active?.card !== card) {
    const first = card.lit ?? card.captions.find((item) => item.region.box);
    if (!first) return;
    zooming = true;
    return activate(first.region.number ? first : card.captions[0], { scroll: false });
  }
  if (!active && !step(1)) return;
  zooming = !zooming;
  look(active.card);
  announce(zooming ? "Close up." : "Whole photo.");
}

function openPanel(open) {
  $("panel").classList.toggle("open", open);
  $("panel-open").setAttribute("aria-expanded", String(open));
  document.querySelector(".main").inert = open;
  document.querySelector(".dock").inert = open;
  document.body.style.overflow = open ? "hidden" : "";
  (open ? $("panel-close") : $("panel-open")).focus();
}

const KEYS = [
  [["J", "↓"], "next caption"], [["K", "↑"], "previous caption"], [["→"], "next row"], [["←"], "previous row"],
  [["N"], "next caption that is not reviewed"],
  [["A"], "accept, and on to the next"], [["R"], "reject, and on to the next"], [["E", "Enter"], "edit the caption"],
  [["Shift A"], "accept what is open in the row"], [["U", "Ctrl Z"], "undo"], [["S"], "save the review to a file"],
  [["Z"], "look closer at the region"], [["B"], "hide or show boxes"], [["/"], "search"], [["T"], "theme"],
  [["Esc"], "let go of the caption"], [["?"], "this list"],
];

function buildHelp() {
  for (const [keys, words] of KEYS) $("keys").append(h("dt", {}, ...keys.flatMap((key, i) => (i ? [" ", h("kbd", {}, key)] : [h("kbd", {}, key)]))), h("dd", {}, words));
}

// Events --------------------------------------------------------------------------------------

const cardOf = (node) => node.closest?.("article")?.card ?? null;
const itemOf = (node) => node.closest?.("li")?.item ?? null;

function onPointerMove(event) {
  if (event.pointerType === "touch") return;
  const card = cardOf(event.target);
  if (!card?.drawn && !card?.filled) return;
  const inFrame = event.target.closest(".frame");
  const item = inFrame ? regionsAt(card, event.clientX, event.clientY, 3)[0] : itemOf(event.target);
  light(card, item ?? (active?.card === card ? active : null));
}

function onPointerOut(event) {
  const card = cardOf(event.target);
  if (card && cardOf(event.relatedTarget ?? document) !== card) light(card, active?.card === card ? active : null);
}

function onClick(event) {
  const card = cardOf(event.target);
  if (!card) return;
  const item = itemOf(event.target);
  const act = event.target.closest("[data-act]")?.dataset.act;
  if (act) return onAct(act, card, item);
  if (event.target.closest(".frame")) return onPhoto(event, card);
  const picks = item?.region.number && !event.target.closest("textarea, button, summary") && !String(getSelection());
  if (picks) activate(item, { scroll: false });
}

function onAct(act, card, item) {
  if (act === "rest") return acceptRest(card);
  if (act === "zoom") return toggleZoom(card);
  if (act === "open") {
    item.open = !item.open;
    return drawCaption(item);
  }
  activate(item, { scroll: false });
  if (act === "edit") edit(item);
  else judge(item, act === "accept" ? "accepted" : "rejected");
}

/** A click on the photo takes the smallest box; again at the same place, the one around it. */
function onPhoto(event, card) {
  const coarse = event.pointerType === "touch";
  const hits = regionsAt(card, event.clientX, event.clientY, coarse ? 12 : 4).filter((item) => item.region.number);
  if (!hits.length) return activate(null);
  const at = hits.indexOf(active);
  activate(hits[(at + 1) % hits.length], { scroll: true });
}

function onArrows(event) {
  const by = { ArrowDown: 1, ArrowUp: -1, ArrowRight: 1, ArrowLeft: -1 }[event.key];
  // The arrows scroll the page until a caption, a photo or a row has been chosen.
  if (!by || !(active || passing || document.activeElement.closest(".frame"))) return false;
  const frame = document.activeElement.closest(".frame");
  if (frame) {
    const { captions } = cardOf(frame);
    const at = captions.indexOf(active);
    const next = captions[at < 0 ? (by > 0 ? 0 : captions.length - 1) : (at + by + captions.length) % captions.length];
    activate(next, { scroll: false });
    announce(`Region ${next.region.number}${next.region.label ? `, ${next.region.label}` : ""}: ${currentText(next) ?? "no caption"}`);
  } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    step(by);
  } else {
    stepRow(by);
  }
  return true;
}

const SINGLE = {
  j: () => step(1), k: () => step(-1), n: nextOpen,
  a: () => judgeByKey("accepted"), r: () => judgeByKey("rejected"),
  A: () => { const card = active?.card ?? rowInSight(); if (card) acceptRest(card); },
  e: () => (active ? edit(active) : step(1)),
  u: undo, s: save, z: () => toggleZoom(null), b: toggleBoxes, t: nextTheme,
  "/": () => $("query").focus(), "?": () => $("help").showModal(),
};

function onKey(event) {
  if (event.defaultPrevented || event.altKey || $("help").open) return;
  const typing = event.target.closest("input, textarea, select");
  if (event.ctrlKey || event.metaKey) {
    if (event.key.toLowerCase() === "z" && !event.shiftKey && !typing) { event.preventDefault(); undo(); }
    return;
  }
  if (event.key === "Escape") return onEscape(typing);
  if (typing) return;
  if (onArrows(event) || onEnter(event) || onSingle(event)) event.preventDefault();
}

function onSingle(event) {
  // Caps lock is not Shift, and a key held down goes through captions but decides nothing twice.
  const key = event.shiftKey ? event.key : event.key.toLowerCase();
  if (!$("single-keys").checked || !Object.hasOwn(SINGLE, key)) return false;
  if (!event.repeat || key === "j" || key === "k") SINGLE[key]();
  return true;
}

function onEnter(event) {
  if (event.key !== "Enter" || !active || document.activeElement !== active.li) return false;
  edit(active);
  return true;
}

function onEscape(typing) {
  if ($("panel").classList.contains("open")) return openPanel(false);
  if (typing === $("query")) return $("query").value ? ($("query").value = "", search()) : $("query").blur();
  if (zooming) { zooming = false; return look(active?.card); }
  document.activeElement.blur();
  activate(null);
}

let searchTimer = 0;

function search() {
  clearTimeout(searchTimer);
  searchTimer = setTimeout(() => {
    filters.text = fold($("query").value.trim());
    filtered();
  }, 120);
}

function listen() {
  const feed = $("feed");
  feed.addEventListener("pointermove", onPointerMove, { passive: true });
  feed.addEventListener("pointerout", onPointerOut, { passive: true });
  feed.addEventListener("click", onClick);
  feed.addEventListener("focusin", (event) => {
    const item = itemOf(event.target);
    if (item?.region.number && item !== active && event.target === item.li) activate(item, { scroll: false });
  });
  document.addEventListener("keydown", onKey);
  $("query").addEventListener("input", search);
  $("reset").addEventListener("click", clearFilters);
  for (const name of ["status", "label", "review"]) {
    $(`facet-${name}`).addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      filters[name].delete(button.value) || filters[name].add(button.value);
      filtered();
    });
  }
  $("labels-more").addEventListener("click", () => { allLabels = !allLabels; drawFacets(); });
  $("save").addEventListener("click", save);
  $("dock-save").addEventListener("click", save);
  $("load").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", async () => {
    const [file] = $("file").files;
    if (file) await load(file);
    $("file").value = "";
  });
  $("clear").addEventListener("click", clearReview);
  $("undo").addEventListener("click", undo);
  $("toast-undo").addEventListener("click", undo);
  $("boxes").addEventListener("click", toggleBoxes);
  $("theme").addEventListener("click", nextTheme);
  $("help-open").addEventListener("click", () => $("help").showModal());
  $("help-close").addEventListener("click", () => $("help").close());
  $("panel-open").addEventListener("click", () => openPanel(true));
  $("panel-close").addEventListener("click", () => openPanel(false));
  narrow.addEventListener("change", () => { if (!narrow.matches) openPanel(false); });
  window.addEventListener("storage", (event) => {
    if (event.key !== storageName) return;
    const before = [...decisions.keys()];
    try {
      decisions = readStorage(event.newValue);
    } catch {
      return; // another page of this browser wrote something that is not ours
    }
    refresh([...new Set([...before, ...decisions.keys()])]);
  });
  window.addEventListener("beforeunload", (event) => { if (!kept && unsaved && decisions.size) event.preventDefault(); });
}

// Opening -------------------------------------------------------------------------------------

const PASSING_BY = 70; // milliseconds near the screen before a photo is opened

function watchRows() {
  const near = new Set();
  const watch = new IntersectionObserver((entries) => {
    for (const { target: { card }, isIntersecting } of entries) {
      if (!isIntersecting) {
        near.delete(card);
        release(card);
        continue;
      }
      near.add(card);
      fill(card);
      // A row that only flies past is not worth decoding a photo for.
      setTimeout(() => { if (near.has(card)) draw(card); }, watched ? PASSING_BY : 0);
    }
    watched = true;
  }, { rootMargin: "1400px 0px" });
  let watched = false;
  for (const card of cards) watch.observe(card.node);
}

/** Fill the rows that were never near the screen in slices of idle time. */
function fillWhenIdle(from = 0) {
  const idle = window.requestIdleCallback ?? ((work) => setTimeout(() => work({ timeRemaining: () => 6 }), 30));
  idle((deadline) => {
    let place = from;
    while (place < cards.length && deadline.timeRemaining() > 2) fill(cards[place++]);
    if (place < cards.length) fillWhenIdle(place);
  });
}

tellFacts();
tellNotes();
drawCharts();
tellRecipe();
drawPages();
buildHelp();
if (narrow.matches) $("query").placeholder = "Search";
setTheme(document.documentElement.dataset.theme ?? "");
$("feed").replaceChildren(...cards.map(buildShell));
if (!cards.length) $("feed").append(h("p", { className: "opening" }, "There are no rows."));
listen();
drawProgress();
applyFilters();
watchRows();
fillWhenIdle();
if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();

})();
