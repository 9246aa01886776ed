// The most frequent substitutions, deletions and insertions of a model in a domain; each leads to its utterances.
{
  const MOST = 15;
  const count = (place, chosen) => {
    const counts = { substitution: new Map(), deletion: new Map(), insertion: new Map() };
    for (const item of utterances) {
      if ((place >= 0 && item.domain !== place) || !item.errors[chosen].all) continue;
      for (const [kind, said, heard] of unpack(item.heard[chosen], item.words)) {
        if (kind === "equal") continue;
        const key = (said || "") + " > " + (heard || "");
        counts[kind].set(key, (counts[kind].get(key) || 0) + 1);
      }
    }
    return counts;
  };
  const table = (kind, counts, titles) => {
    const head = make("tr", "", ...[...titles, "times"].map((title) => make("th", "", title)));
    for (const column of head.children) column.scope = "col";
    const rows = [...counts].sort((one, other) => other[1] - one[1] || (one[0] < other[0] ? -1 : 1)).slice(0, MOST).map(([key, times]) => {
      const words = key.split(" > ").filter(Boolean);
      const look = make("button", "word", words.join(" → "));
      look.type = "button";
      look.title = "Show these utterances";
      look.addEventListener("click", () => { find(key.trim()); });
      const cell = make("td", "", look);
      cell.colSpan = titles.length;
      return make("tr", "", cell, number(times.toLocaleString("en")));
    });
    const total = [...counts.values()].reduce((sum, times) => sum + times, 0);
    const caption = make("caption", "", plural(total, kind));
    const node = make("table", "confusion " + kind + "s", caption, make("thead", "quiet", head), make("tbody", "", ...rows));
    return node;
  };
  // The list of utterances takes over model and domain.
  const find = (error) => {
    for (const [control, chosen] of [[domain, ofDomain], [model, ofModel]]) {
      if (control.value !== chosen.value) { control.value = chosen.value; control.onchange(); }
    }
    show.value = "all";
    show.onchange();
    search(error);
    byId("utterances").scrollIntoView();
    move(0);
  };
  const display = () => {
    const counts = count(domainNamed(ofDomain.value), modelNamed(ofModel.value));
    byId("confusions").replaceChildren(
      table("substitution", counts.substitution, ["said", "heard"]),
      table("deletion", counts.deletion, ["said"]),
      table("insertion", counts.insertion, ["heard"]),
    );
  };
  const ofModel = fill("confusion-model", modelOptions, models[focus].name, display);
  const ofDomain = fill("confusion-domain", [["*", "all domains"], ...domainOptions], "*", display);
  display();
}
