// Word error rates by part of a set: the main model beside another.
{
  const places = Object.keys(data.slices).map(Number);
  const others = models.filter((model) => model.index !== focus);
  const rate = (words, score) => score[0] / Math.max(1, words);
  const compare = {
    order: ["their order", () => 0],
    rate: ["highest WER", (one, other) => rate(other[2], other[3][focus]) - rate(one[2], one[3][focus])],
    words: ["most words", (one, other) => other[2] - one[2]],
  };
  const cell = (words, score) => {
    const node = number("");
    node.append(make("b", "", percent(rate(words, score))));
    if (score.length > 1) node.append(make("span", "interval", percent(score[1]) + "–" + percent(score[2])));
    return node;
  };
  const show = () => {
    const rows = data.slices[domainNamed(domain.value)][by.value];
    const against = others.length ? modelNamed(other.value) : -1;
    const head = make("tr", "");
    const titles = [by.options[by.selectedIndex].text, "Utterances", "Words", models[focus].title];
    if (against >= 0) titles.push(models[against].title, "Difference");
    for (const [place, title] of titles.entries()) {
      const column = make("th", place ? "number" : "", title);
      column.scope = "col";
      head.append(column);
    }
    const body = make("tbody", "");
    for (const [value, utterances, words, scores] of [...rows].sort(compare[sort.value][1])) {
      const name = make("th", "", value);
      name.scope = "row";
      const row = make("tr", "", name, number(utterances.toLocaleString("en")), number(words.toLocaleString("en")), cell(words, scores[focus]));
      if (against >= 0) row.append(cell(words, scores[against]), number(points(rate(words, scores[focus]) - rate(words, scores[against]))));
      body.append(row);
    }
    byId("slices").replaceChildren(make("thead", "", head), body);
  };
  const changed = () => { kinds(); show(); };
  const domain = fill("slice-domain", places.map((place) => [data.domains[place].name, data.domains[place].title]), data.domains[places[0]].name, changed);
  let by;
  const kinds = () => {
    const found = Object.keys(data.slices[domainNamed(domain.value)]);
    const before = by && by.value;
    by = fill("slice-by", found.map((kind) => [kind, kind[0].toUpperCase() + kind.slice(1).replaceAll("_", " ")]), found[0], show);
    if (found.includes(before)) by.value = before;
  };
  const base = models.find((model) => model.role === "base" && model.index !== focus);
  const other = fill("slice-model", others.map((model) => [model.name, model.title]), (base || others[0] || { name: "" }).name, show);
  if (!others.length) other.parentElement.hidden = true;
  const sort = fill("slice-sort", Object.entries(compare).map(([key, item]) => [key, item[0]]), "order", show);
  changed();
}
