// Alignments: unpacked, counted, laid out in lines of columns with a word that was said and below it what every model heard.
const KINDS = ["substitution", "deletion", "insertion"];
// Packed alignment → [kind, said, heard] per word; see packing.py.
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
const wordsOf = (text) => (text ? text.split(" ") : []);
const utterances = data.utterances.map(([domain, id, speaker, seconds, text, heard, further], index) => ({
  index, domain, id, speaker, seconds, text, heard, words: wordsOf(text), errors: heard.map(tally), reasons: null,
  ...further,
}));
const failed = data.failed.map(([domain, id, speaker, seconds, text, further], index) => ({
  index: utterances.length + index, domain, id, speaker, seconds, text, heard: null, words: wordsOf(text), ...further,
}));

// Columns of several models' alignments: {said, heard: [kind, word] or null per model}; an insertion has a column of its own.
const columnsOf = (item, shown) => {
  const size = item.words.length;
  const slots = shown.map((model) => {
    const inserted = Array.from({ length: size + 1 }, () => []), words = [];
    for (const [kind, , heard] of unpack(item.heard[model], item.words)) {
      if (kind === "insertion") inserted[words.length].push(heard); else words.push([kind, heard]);
    }
    return { inserted, words };
  });
  const columns = [];
  for (let at = 0; at <= size; at++) {
    const most = Math.max(...slots.map((slot) => slot.inserted[at].length));
    for (let place = 0; place < most; place++) {
      columns.push({ said: null, heard: slots.map((slot) => place in slot.inserted[at] ? ["insertion", slot.inserted[at][place]] : null) });
    }
    if (at < size) columns.push({ said: item.words[at], heard: slots.map((slot) => slot.words[at]) });
  }
  return columns;
};

// Widths in pixels, so that a line can be filled before it is drawn; errors are set in bold.
const brush = document.createElement("canvas").getContext("2d");
const widths = new Map();
let face = "16px sans-serif";
const widthOf = (word, weight) => {
  const key = weight + word;
  if (!widths.has(key)) {
    brush.font = weight + " " + face;
    widths.set(key, brush.measureText(word).width);
  }
  return widths.get(key);
};
const setFace = (node) => {
  const style = getComputedStyle(node);
  face = style.fontSize + " " + style.fontFamily;
  widths.clear();
};
const PADDING = 13;  // around a word, and between two
const columnWidth = (column) => PADDING + Math.max(widthOf(column.said || "·", 400),
  ...column.heard.map((cell) => !cell ? 0 : cell[0] === "equal" ? widthOf(cell[1], 400) : widthOf("+" + (cell[1] || "–"), 700)));

const marked = (text, className, wanted) => {
  const node = make("span", className);
  const at = wanted && text ? text.toLowerCase().indexOf(wanted) : -1;
  if (at < 0) node.append(text);
  else node.append(text.slice(0, at), make("mark", "", text.slice(at, at + wanted.length)), text.slice(at + wanted.length));
  return node;
};
// Of a long recording only as much as a list can hold, from shortly before the first error, unless all is asked for.
const LONGEST = 150, BEFORE = 20;  // columns
const excerpt = (columns, whole) => {
  if (whole || columns.length <= LONGEST) return [columns, 0, 0];
  const wrong = columns.findIndex((column) => column.heard.some((cell) => cell && cell[0] !== "equal"));
  const start = Math.max(0, Math.min(wrong - BEFORE, columns.length - LONGEST));
  return [columns.slice(start, start + LONGEST), start, columns.length - start - LONGEST];
};
const layOut = (item, shown, wanted, room, whole) => {
  const names = shown.length > 1 ? shown.map((model) => models[model].title) : ["heard"];
  const gutter = shown.length > 1 ? Math.min(130, room / 4) : 46;
  const node = make("div", "alignment");
  node.style.setProperty("--gutter", gutter + "px");
  let line = null, left = 0;
  const start = () => {
    const labels = make("span", "gutter", make("span", "", "said"), ...names.map((name) => make("span", "", name)));
    for (const label of labels.children) label.title = label.textContent;
    line = make("div", "line", labels);
    node.append(line);
    left = room - gutter;
  };
  const [columns, before, after] = excerpt(columnsOf(item, shown), whole);
  const leftOut = (count, where) => { if (count) node.append(make("p", "left-out", "… " + plural(count, "word") + where + ": open to see all")); };
  leftOut(before, " before");
  start();
  for (const column of columns) {
    const width = columnWidth(column);
    if (width > left && line.childElementCount > 1) start();
    left -= width;
    const cells = column.heard.map((cell, place) => {
      if (!cell) return make("span", "heard", "");
      const heard = marked(cell[1] === null ? "–" : cell[1], "heard " + cell[0], wanted);
      if (cell[0] !== "equal") heard.title = names[place] + ": " + cell[0];
      return heard;
    });
    line.append(make("span", "pair", marked(column.said === null ? "·" : column.said, "said", wanted), ...cells));
  }
  leftOut(after, " after");
  return node;
};
