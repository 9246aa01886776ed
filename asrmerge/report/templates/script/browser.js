// The list of utterances: what is asked for, rendered a page at a time, moved through by keys.
const FIRST = 8, PAGE = 20;
const list = byId("list"), more = byId("more"), status = byId("status"), query = byId("query");
let found = [], rendered = 0, asked = null, room = 0;

const present = new Set([...utterances, ...failed].map((item) => item.domain));
const domainOptions = data.domains.filter((_, index) => present.has(index)).map((domain) => [domain.name, domain.title]);
const modelOptions = models.map((model) => [model.name, model.title]);
const options = (items) => Object.entries(items).map(([key, item]) => [key, item[0]]);
const again = () => render(PAGE);
const domain = fill("domain", [["*", "all domains"], ...domainOptions], domainOptions.length > 1 ? domainOptions[0][0] : "*", again);
const model = fill("model", modelOptions, models[focus].name, () => { offerBeside(); again(); });
const show = fill("show", options(shows), "wrong", again);
const sort = fill("sort", options(sorts), "errors", again);
for (const control of [show, sort]) {  // models that are compared with: a group of their own
  const group = make("optgroup", "");
  group.label = "against another model";
  const value = control.value;
  group.append(...[...control.options].filter((option) => option.value.includes(":")));
  if (group.childElementCount) control.append(group);
  control.value = value;
}
query.value = state.get("query") || "";

// Models shown beside the chosen one in every utterance.
const beside = new Set(state.getAll("beside").map(modelNamed).filter((index) => index >= 0));
const offerBeside = () => {
  const box = byId("beside");
  if (!box) return;
  const chosen = modelNamed(model.value);
  const check = (label, checked, change) => {
    const input = make("input", "");
    input.type = "checkbox";
    input.checked = checked;
    input.addEventListener("change", () => {
      change(input.checked);
      remember("beside", [...beside].map((index) => models[index].name), null);
      again();
    });
    return make("label", "", input, label);
  };
  const others = models.filter((other) => other.index !== chosen);
  const all = check("all", others.every((other) => beside.has(other.index)), (on) => {
    for (const other of models) if (on) beside.add(other.index); else beside.delete(other.index);
    offerBeside();
  });
  const boxes = others.map((other) => check(other.title, beside.has(other.index), (on) => {
    if (on) beside.add(other.index); else beside.delete(other.index);
    all.firstChild.checked = others.every((one) => beside.has(one.index));
  }));
  box.replaceChildren(box.querySelector("legend"), ...boxes, ...(others.length > 1 ? [all] : []));
};
offerBeside();

const summary = (item, index) => {
  const errors = item.errors[index];
  const parts = KINDS.filter((kind) => errors[kind]).map((kind) => kind[0].toUpperCase() + " " + errors[kind]);
  return plural(errors.all, "error") + (parts.length ? " (" + parts.join(", ") + ")" : "");
};
const troubles = (item, index) => [
  item.loops && index in item.loops && "over and over: " + item.loops[index],
  item.silence && item.silence.includes(index) && "text on silence",
  item.missed && item.missed.includes(index) && "misses a term",
].filter(Boolean);
// The chosen model, its domain's expert and the base before the others.
const ranked = (item, first) => {
  const home = data.domains[item.domain].name;
  const rank = ({ index, role, domain: own }) => index === first ? 0 : role === "base" ? 1 : role === "expert" ? (own === home ? 2 : 4) : 3;
  return [...models].sort((one, other) => rank(one) - rank(other) || one.index - other.index).map(({ index }) => index);
};
const player = (item) => {
  const audio = make("audio", "");
  audio.controls = true;
  audio.preload = "none";
  audio.src = item.audio;
  audio.setAttribute("aria-label", "Audio of " + item.id);
  return audio;
};
const body = (item, open) => {
  if (!item.heard) {
    const reasons = Object.entries(item.reasons).map(([index, reason]) => make("li", "", make("b", "", models[index].title), ": " + reason));
    return [make("p", "", item.text || "(nothing was said)"), make("ul", "reasons", ...reasons)];
  }
  const order = ranked(item, asked.model);
  const shown = open ? order : order.filter((index) => index === asked.model || beside.has(index));
  const rates = shown.length > 1 ? [make("p", "meta", ...shown.map((index) => make("span", "", models[index].title + ": " + [summary(item, index), ...troubles(item, index)].join(", "))))] : [];
  return [layOut(item, shown, asked.wanted, room, open), ...rates];
};
const toggle = (node) => {
  const item = node.item, open = node.head.getAttribute("aria-expanded") !== "true";
  node.head.setAttribute("aria-expanded", String(open));
  node.replaceChildren(node.firstChild, ...body(item, open), ...(open && item.audio ? [player(item)] : []));
};
const row = (item) => {
  const head = make("button", "open", item.heard ? summary(item, asked.model) : "not transcribed");
  head.type = "button";
  head.setAttribute("aria-expanded", "false");
  const meta = make("p", "meta", head);
  if (item.heard) for (const trouble of troubles(item, asked.model)) meta.append(make("span", "trouble", "⚠ " + trouble));
  const facts = [asked.domain < 0 && data.domains[item.domain].title, plural(item.words.length, "word"), item.seconds && item.seconds.toFixed(1) + " s", item.speaker && "speaker " + item.speaker, item.id, item.audio && "♪ audio"];
  for (const fact of facts) if (fact) meta.append(make("span", "", fact));
  const node = make("li", "", meta, ...body(item, false));
  node.item = item;
  node.head = head;
  node.tabIndex = -1;
  head.addEventListener("click", () => toggle(node));
  return node;
};
const extend = (count) => {
  for (const item of found.slice(rendered, rendered + count)) list.append(row(item));
  rendered = Math.min(found.length, rendered + count);
  more.hidden = rendered >= found.length;
  more.textContent = "Show " + Math.min(PAGE, found.length - rendered) + " more";
};
function render(count) {
  asked = { domain: domainNamed(domain.value), model: modelNamed(model.value), show: show.value, sort: sort.value, ...matcher(query.value) };
  setFace(list);
  room = list.clientWidth;
  found = select(asked);
  rendered = 0;
  list.replaceChildren();
  extend(count);
  if (!found.length) list.append(make("li", "empty", "Nothing matches: widen the search or choose another domain."));
  const errors = found.reduce((sum, item) => sum + (item.heard ? item.errors[asked.model].all : 0), 0);
  const total = asked.show === "failed" ? "" : models[asked.model].title + ": " + plural(errors, "error") + " in ";
  status.textContent = total + plural(found.length, "utterance");
}

// Move to the next or the previous utterance, from where the focus is.
const move = (step) => {
  const here = document.activeElement.closest ? document.activeElement.closest("#list > li") : null;
  const at = here ? [...list.children].indexOf(here) + step : 0;
  if (at >= rendered && rendered < found.length) extend(PAGE);
  const next = list.children[Math.max(0, at)];
  if (!next || !next.item) return;
  next.focus({ preventScroll: true });
  next.scrollIntoView({ block: "nearest" });
};
more.addEventListener("click", () => { const first = rendered; extend(PAGE); list.children[first].focus(); });
let pending = 0;
const search = (text) => { query.value = text; remember("query", text, ""); again(); };
query.addEventListener("input", () => { clearTimeout(pending); pending = setTimeout(() => search(query.value), 80); });
byId("controls").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("keydown", (event) => {
  const target = event.target, here = target.closest ? target.closest("#list > li") : null;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape" && target === query) { query.blur(); move(0); return; }
  if (/^(INPUT|SELECT|TEXTAREA|AUDIO)$/.test(target.tagName)) return;
  const keys = {
    "/": () => { query.focus(); query.select(); },
    j: () => move(1),
    k: () => move(-1),
    ArrowDown: here && (() => move(1)),
    ArrowUp: here && (() => move(-1)),
    Enter: here && here === target && here.item && (() => toggle(here)),
    p: () => { const audio = list.querySelector("li:focus-within audio") || list.querySelector("audio"); if (audio) { if (audio.paused) audio.play(); else audio.pause(); } },
  };
  if (!keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
});
let resized = 0;
addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => { if (list.clientWidth !== room) render(Math.max(rendered, FIRST)); }, 150);
});
render(FIRST);
if (state.get("open") === "1" && list.firstChild.item) toggle(list.firstChild);
if (["domain", "model", "show", "sort", "query", "beside"].some((key) => state.has(key))) byId("utterances").scrollIntoView();
