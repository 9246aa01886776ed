"use strict";
(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  root.classList.add("js");

  // The part of the address after "#" holds the page's state, so that a view can be sent to somebody else.
  const state = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
  const remember = (key, value, usual) => {
    if (value === usual) state.delete(key); else state.set(key, value);
    const text = state.toString();
    history.replaceState(null, "", text ? "#" + text : location.pathname + location.search);
  };

  // Theme: as the system has it, or as chosen here.
  const themes = ["auto", "light", "dark"];
  const stored = () => { try { return localStorage.getItem("asrmerge-theme"); } catch { return null; } };
  const store = (theme) => { try { localStorage.setItem("asrmerge-theme", theme); } catch { /* files may have no storage */ } };
  let theme = [state.get("theme"), stored(), "auto"].find((name) => themes.includes(name));
  const showTheme = () => {
    if (theme === "auto") root.removeAttribute("data-theme"); else root.dataset.theme = theme;
    byId("theme-name").textContent = theme[0].toUpperCase() + theme.slice(1);
  };
  byId("theme").addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    store(theme);
    if (state.has("theme")) remember("theme", theme, "auto");
    showTheme();
  });
  showTheme();

  const counts = byId("counts");
  const showCounts = (on) => {
    byId("wer-table").classList.toggle("counts", on);
    counts.setAttribute("aria-pressed", String(on));
    counts.textContent = on ? "Hide error counts" : "Show error counts";
  };
  counts.addEventListener("click", () => showCounts(counts.getAttribute("aria-pressed") !== "true"));
  if (state.get("counts") === "1") showCounts(true);

  // Tips over marks and cells; without a pointer, "Show error counts" and the table say the same.
  const tip = byId("tip");
  for (const title of document.querySelectorAll("[data-tip] > title")) title.remove();
  document.addEventListener("pointermove", (event) => {
    const target = event.target.closest ? event.target.closest("[data-tip]") : null;
    tip.hidden = !target;
    if (!target) return;
    tip.textContent = target.dataset.tip;
    const box = tip.getBoundingClientRect();
    const left = Math.min(event.clientX + 14, innerWidth - box.width - 8);
    const below = event.clientY + 18 + box.height < innerHeight;
    tip.style.left = Math.max(8, left) + "px";
    tip.style.top = (below ? event.clientY + 16 : event.clientY - box.height - 12) + "px";
  });
  document.addEventListener("pointerleave", () => { tip.hidden = true; });
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  const source = byId("data");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const PAGE = 20;

  // Packed alignment → [kind, said, heard] per word; see utterances.py.
  const unpack = (packed, words) => {
    const pairs = [];
    let at = 0;
    for (const step of packed) {
      if (typeof step === "number") {
        for (let left = Math.abs(step); left > 0; left--, at++) {
          pairs.push(step > 0 ? ["equal", words[at], words[at]] : ["deletion", words[at], null]);
        }
      } else if (step[0] === "~") pairs.push(["substitution", words[at++], step.slice(1)]);
      else pairs.push(["insertion", null, step.slice(1)]);
    }
    return pairs;
  };
  const tally = (packed) => {
    const found = { substitution: 0, deletion: 0, insertion: 0 };
    for (const step of packed) {
      if (typeof step === "number") found.deletion += Math.max(0, -step);
      else found[step[0] === "~" ? "substitution" : "insertion"]++;
    }
    found.all = found.substitution + found.deletion + found.insertion;
    return found;
  };
  for (const [index, item] of data.utterances.entries()) {
    item.index = index;
    item.words = item.text ? item.text.split(" ") : [];
    item.errors = item.heard.map(tally);
  }
  const haystacks = new Map();  // per utterance and model, made when first searched
  const haystack = (item, model) => {
    const key = item.index * data.models.length + model;
    if (!haystacks.has(key)) {
      const heard = unpack(item.heard[model], item.words).map((pair) => pair[2]).filter(Boolean).join(" ");
      haystacks.set(key, [item.text, heard, item.id, item.speaker || ""].join("\n").toLowerCase());
    }
    return haystacks.get(key);
  };

  const roleIndex = (role) => data.models.findIndex((model) => model.role === role);
  const base = roleIndex("base"), uniform = roleIndex("uniform");
  const rate = (item, model) => item.errors[model].all / Math.max(1, item.words.length);
  const gain = (item, model, other) => item.errors[other].all - item.errors[model].all;
  const shows = {
    all: ["everything", () => true],
    wrong: ["with errors", (item, model) => item.errors[model].all > 0],
    substitution: ["with substitutions", (item, model) => item.errors[model].substitution > 0],
    deletion: ["with deletions", (item, model) => item.errors[model].deletion > 0],
    insertion: ["with insertions", (item, model) => item.errors[model].insertion > 0],
    right: ["without errors", (item, model) => item.errors[model].all === 0],
  };
  const sorts = {
    errors: ["most errors", (one, other, model) => other.errors[model].all - one.errors[model].all || rate(other, model) - rate(one, model)],
    rate: ["highest WER", (one, other, model) => rate(other, model) - rate(one, model)],
    length: ["longest", (one, other) => other.seconds - one.seconds],
    order: ["order in the test set", () => 0],
  };
  for (const [key, index, name] of [["base", base, "base"], ["uniform", uniform, "uniform average"]]) {
    if (index < 0) continue;
    shows["worse-" + key] = ["worse than " + name, (item, model) => gain(item, model, index) < 0];
    shows["better-" + key] = ["better than " + name, (item, model) => gain(item, model, index) > 0];
    sorts["gain-" + key] = ["gain over " + name, (one, other, model) => gain(other, model, index) - gain(one, model, index)];
    sorts["loss-" + key] = ["loss against " + name, (one, other, model) => gain(one, model, index) - gain(other, model, index)];
  }

  const fill = (id, options, usual) => {
    const select = byId(id);
    for (const [value, label] of options) select.append(new Option(label, value));
    const wanted = state.get(id);
    select.value = options.some(([value]) => value === wanted) ? wanted : usual;
    select.addEventListener("change", () => { remember(id, select.value, usual); render(PAGE); });
    return select;
  };
  const present = new Set(data.utterances.map((item) => item.domain));
  const domains = data.domains.map((item, index) => [item.name, item.title, index]).filter((item) => present.has(item[2]));
  const domain = fill("domain", [["*", "all domains"], ...domains], domains[0][0]);
  const model = fill("model", data.models.map((item) => [item.name, item.title]), data.models[data.focus].name);
  const show = fill("show", Object.entries(shows).map(([key, item]) => [key, item[0]]), "wrong");
  const sort = fill("sort", Object.entries(sorts).map(([key, item]) => [key, item[0]]), "errors");
  const query = byId("query");
  query.value = state.get("query") || "";
  let pending = 0;
  query.addEventListener("input", () => {
    clearTimeout(pending);
    pending = setTimeout(() => { remember("query", query.value, ""); render(PAGE); }, 80);
  });
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) { event.preventDefault(); query.focus(); }
  });

  const make = (tag, className, ...children) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    node.append(...children);  // strings become text, never markup
    return node;
  };
  const word = (text, className, wanted) => {
    const node = make("span", className);
    const at = wanted && text ? text.toLowerCase().indexOf(wanted) : -1;
    if (at < 0) node.append(text === null ? "·" : text);
    else node.append(text.slice(0, at), make("mark", "", text.slice(at, at + wanted.length)), text.slice(at + wanted.length));
    return node;
  };
  const alignment = (item, index, wanted) => {
    const gutter = make("span", "gutter", make("span", "", "said"), make("span", "", "heard"));
    gutter.setAttribute("aria-hidden", "true");
    const node = make("div", "alignment", gutter);
    for (const [kind, said, heard] of unpack(item.heard[index], item.words)) {
      const pair = make("span", "pair " + kind, word(said, "said", wanted), word(heard, "heard", wanted));
      if (kind !== "equal") pair.title = kind;
      node.append(pair);
    }
    return node;
  };
  const plural = (count, noun) => count + " " + noun + (count === 1 ? "" : "s");
  const summary = (item, index) => {
    const found = item.errors[index];
    const parts = ["substitution", "deletion", "insertion"].filter((kind) => found[kind]).map((kind) => kind[0].toUpperCase() + " " + found[kind]);
    return plural(found.all, "error") + (parts.length ? " (" + parts.join(", ") + ")" : "");
  };
  const others = (item, index) => {
    const node = make("details", "", make("summary", "", "Compare with the other models"));
    node.addEventListener("toggle", () => {
      if (!node.open || node.childElementCount > 1) return;
      const list = make("div", "others");
      const home = data.domains[item.domain].name;
      const rank = (place) => {
        const found = data.models[place];
        return found.role === "base" ? 0 : found.role === "expert" && found.domain === home ? 1 : found.role === "expert" ? 3 : 2;
      };
      const order = data.models.map((_, place) => place).filter((place) => place !== index);
      for (const place of order.sort((one, other) => rank(one) - rank(other) || one - other)) {
        const meta = make("p", "meta", make("b", "", data.models[place].title), make("span", "", summary(item, place)));
        list.append(make("div", "", meta, alignment(item, place, "")));
      }
      node.append(list);
    });
    return node;
  };
  const row = (item, index, wanted) => {
    const meta = make("p", "meta", make("b", "", summary(item, index)));
    const length = plural(item.words.length, "word");
    const facts = [domain.value === "*" && data.domains[item.domain].title, length, item.seconds && item.seconds.toFixed(1) + " s", item.speaker && "speaker " + item.speaker, item.id];
    for (const fact of facts) if (fact) meta.append(make("span", "", fact));
    const node = make("li", "", meta, alignment(item, index, wanted));
    if (data.models.length > 1) node.append(others(item, index));
    return node;
  };

  const list = byId("list"), more = byId("more"), status = byId("status");
  let found = [], shown = 0;
  const extend = (count) => {
    const index = data.models.findIndex((item) => item.name === model.value);
    const wanted = query.value.trim().toLowerCase();
    for (const item of found.slice(shown, shown + count)) list.append(row(item, index, wanted));
    shown = Math.min(found.length, shown + count);
    more.hidden = shown >= found.length;
    more.textContent = "Show " + Math.min(PAGE, found.length - shown) + " more";
    const errors = found.reduce((sum, item) => sum + item.errors[index].all, 0);
    status.textContent = data.models[index].title + ": " + plural(errors, "error") + " in " + plural(found.length, "utterance")
      + (shown < found.length ? ", the first " + shown + " shown" : "");
  };
  function render(count) {
    const index = data.models.findIndex((item) => item.name === model.value);
    const place = data.domains.findIndex((item) => item.name === domain.value);
    const wanted = query.value.trim().toLowerCase();
    const keep = shows[show.value][1], compare = sorts[sort.value][1];
    found = data.utterances.filter((item) => (place < 0 || item.domain === place) && keep(item, index)
      && (!wanted || haystack(item, index).includes(wanted)));
    found.sort((one, other) => compare(one, other, index) || one.index - other.index);
    list.replaceChildren();
    shown = 0;
    extend(count);
    if (!found.length) list.append(make("li", "empty", "Nothing matches: widen the search or choose another domain."));
  }
  more.addEventListener("click", () => { const first = shown; extend(PAGE); const next = list.children[first]; if (next) { next.tabIndex = -1; next.focus(); } });
  render(8);
  if (state.get("open") === "1" && list.querySelector("details")) list.querySelector("details").open = true;
  if (["domain", "model", "show", "sort", "query"].some((key) => state.has(key))) byId("utterances").scrollIntoView();
})();
