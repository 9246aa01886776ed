// Which utterances are listed, and in which order.
const rate = (item, model) => item.errors[model].all / Math.max(1, item.words.length);
const gain = (item, model, other) => item.errors[other].all - item.errors[model].all;
const shows = {
  all: ["everything", () => true],
  wrong: ["with errors", (item, model) => item.errors[model].all > 0],
  right: ["without errors", (item, model) => item.errors[model].all === 0],
};
for (const kind of KINDS) shows[kind] = ["with " + kind + "s", (item, model) => item.errors[model][kind] > 0];
// What few utterances have is offered where some have it.
const offer = (key, label, test) => {
  if (utterances.some((item) => models.some((model) => test(item, model.index)))) shows[key] = [label, test];
};
offer("missed", "with missed terms", (item, model) => !!item.missed && item.missed.includes(model));
offer("loop", "with a phrase over and over", (item, model) => !!item.loops && model in item.loops);
offer("silence", "with text on silence", (item, model) => !!item.silence && item.silence.includes(model));
const sorts = {
  errors: ["most errors", (one, other, model) => other.errors[model].all - one.errors[model].all || rate(other, model) - rate(one, model)],
  rate: ["highest WER", (one, other, model) => rate(other, model) - rate(one, model)],
  length: ["longest", (one, other) => other.seconds - one.seconds],
  words: ["most words", (one, other) => other.words.length - one.words.length],
  order: ["order in the test set", () => 0],
};
if (models.length > 1) {
  for (const { index, name, title } of models) {
    shows["worse:" + name] = ["worse than " + title, (item, model) => gain(item, model, index) < 0];
    shows["better:" + name] = ["better than " + title, (item, model) => gain(item, model, index) > 0];
    sorts["gain:" + name] = ["gain over " + title, (one, other, model) => gain(other, model, index) - gain(one, model, index)];
    sorts["loss:" + name] = ["loss against " + title, (one, other, model) => gain(one, model, index) - gain(other, model, index)];
  }
}
if (failed.length) shows.failed = ["not transcribed", () => true];

const heardText = (packed, words) => {
  const parts = [];
  let at = 0;
  for (const step of packed) {
    if (typeof step !== "number") {
      parts.push(step.slice(1));
      at += step[0] === "~" ? 1 : 0;
    } else {
      if (step > 0) parts.push(...words.slice(at, at + step));
      at += Math.abs(step);
    }
  }
  return parts.join(" ");
};
const texts = new Map();  // what is searched, by utterance and model, made when first searched
const textOf = (item, model) => {
  const key = item.index * models.length + model;
  if (!texts.has(key)) {
    const heard = item.heard ? heardText(item.heard[model], item.words) : "";
    texts.set(key, [item.text, heard, item.id, item.speaker || ""].join("\n").toLowerCase());
  }
  return texts.get(key);
};
// "the > a", "the >" and "> a" ask for an error, everything else for a part of the texts.
const matcher = (query) => {
  const wanted = query.trim().toLowerCase().replace(/\s+/g, " ");
  const error = /^(\S*) ?> ?(\S*)$/.exec(wanted);
  if (!error || error[0] === ">") return { wanted, matches: (item, model) => !wanted || textOf(item, model).includes(wanted) };
  const [, said, heard] = error;
  const is = (word, asked) => (word === null ? "" : word.toLowerCase()) === asked;
  const matches = (item, model) => item.heard && item.errors[model].all > 0
    && unpack(item.heard[model], item.words).some((pair) => pair[0] !== "equal" && is(pair[1], said) && is(pair[2], heard));
  return { wanted: said || heard, matches };
};
const select = ({ domain, model, show, sort, matches }) => {
  const source = show === "failed" ? failed : utterances, keep = shows[show][1], compare = sorts[sort][1];
  const found = source.filter((item) => (domain < 0 || item.domain === domain) && keep(item, model) && matches(item, model));
  return show === "failed" ? found : found.sort((one, other) => compare(one, other, model) || one.index - other.index);
};
