// The page as a whole: theme, tips, choices, and its state in the address. All scripts share one function's scope, in this order.
const root = document.documentElement;
const byId = (id) => document.getElementById(id);
root.classList.add("js");

// The part of the address after "#" holds the page's state, so that a view can be sent to somebody else.
const state = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
const remember = (key, value, usual) => {
  state.delete(key);
  for (const one of [value].flat()) if (one !== usual) state.append(key, one);
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

// A select with data-chooser shows that part of its group which has its value, and hides the others.
const usualOf = (select) => (select.querySelector("[selected]") || select.options[0]).value;
for (const select of document.querySelectorAll("[data-chooser]")) {
  const group = select.dataset.chooser, usual = usualOf(select);
  const parts = document.querySelectorAll(`[data-part="${group}"]`);
  const wanted = state.get(group);
  select.value = [...select.options].some((option) => option.value === wanted) ? wanted : usual;
  const choose = () => { for (const part of parts) part.hidden = part.dataset.choice !== select.value; };
  select.addEventListener("change", () => { remember(group, select.value, usual); choose(); });
  choose();
}

const make = (tag, className, ...children) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);  // strings become text, never markup
  return node;
};
const number = (text) => make("td", "number", text);
// A select of [value, label] pairs whose choice the address keeps under its id.
const fill = (id, options, usual, changed) => {
  const select = byId(id);
  select.replaceChildren(...options.map(([value, label]) => new Option(label, value)));
  const wanted = state.get(id);
  select.value = options.some(([value]) => value === wanted) ? wanted : usual;
  select.onchange = () => { remember(id, select.value, usual); changed(); };
  return select;
};
const percent = (fraction) => (100 * fraction).toFixed(1);
const points = (fraction) => {
  const text = Math.abs(100 * fraction).toFixed(1);
  return (Number(text) === 0 ? "" : fraction > 0 ? "+" : "−") + text;
};
const plural = (count, noun) => count.toLocaleString("en") + " " + noun + (count === 1 ? "" : "s");
